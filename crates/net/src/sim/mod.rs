//! A simulated network: streams between simulated hosts, with delays, cuts, resets and lost machines.
//!
//! It stands where TCP stands, so what a packet network does to packets is here what a program on a socket sees of it:
//!
//! | fault of the network | what programs see | here | counted as |
//! | --- | --- | --- | --- |
//! | delay | bytes come later | [`set_delay_ms`], drawn anew for each write | |
//! | packet loss | delay, until TCP has sent it again | as delay | |
//! | drop for good | the connection breaks, and a request or an answer is lost with it | [`lose_next`]: the next write of a direction; [`reset`]: all that is under way | `requests_lost`, `answers_lost` |
//! | duplicate | TCP drops a repeated packet. A request comes twice when its answer was lost and the client asks again | [`lose_next`] for answers, [`stall`] | the receiver knows: `broker.duplicate_recognised` |
//! | reorder | within a connection never. Across connections: a client gives one up, asks again on a new one, and what it wrote on the old one arrives after that | [`stall`]: existing connections hold everything back, new ones do not | `late`, `overtaken` |
//! | one-way cut | silence in one direction, then everything, in order | [`set_cut`] | |
//! | lost machine | silence, then resets | [`power_off`], [`power_on`] | |
//!
//! Writes and reads are short now and then. TLS is left out: a listener that demands it gets the identity that the dialing
//! host was given ([`add_host`]).
//! Invariants: only the seed decides; bytes between two hosts keep their order within a connection; each direction holds
//! at most [`WINDOW_BYTES`].

mod pipe;
mod stream;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::{Arc, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;

use rand::Rng;
use tailway_runtime::sim::{HostId, current, draw, note};
use tokio::time::{Instant, sleep};

use crate::address::HostPort;
use crate::peer::PeerIdentity;

use pipe::{Pipe, SharedPipe, Way};
pub use stream::SimStream;

/// Bytes under way in one direction of a connection, as a socket's buffers bound them.
pub const WINDOW_BYTES: usize = 256 * 1024;
/// Connections that wait to be accepted.
const BACKLOG: usize = 1024;
/// Where a host's own ends of connections begin, as Linux has it.
const EPHEMERAL_PORTS: RangeInclusive<u16> = 32_768..=60_999;

thread_local! {
    static NET: RefCell<Net> = RefCell::new(Net::default());
}

#[derive(Default)]
struct Net {
    hosts: BTreeMap<HostId, Host>,
    listeners: BTreeMap<SocketAddr, Pending>,
    /// By direction; one that is not named here is fast and whole.
    links: BTreeMap<(HostId, HostId), Link>,
    connections: Vec<[Weak<SharedPipe>; 2]>,
    connections_made: u64,
    /// The newest connection of which something has arrived, by direction.
    heard: BTreeMap<(HostId, HostId, Way), u64>,
    counts: Counts,
}

/// How often what happened, since [`clear`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Directions in which bytes of the dialing host were lost with their connection.
    pub requests_lost: u64,
    /// The same for bytes of the host that was dialed.
    pub answers_lost: u64,
    /// Connections that held everything back for a while.
    pub stalled: u64,
    /// Connections of which something arrived after the writer had given them up.
    pub late: u64,
    /// Of these, how often a newer connection of the same hosts had been heard before.
    pub overtaken: u64,
}

struct Host {
    address: IpAddr,
    identity: Option<PeerIdentity>,
    powered: bool,
    next_port: u16,
}

/// What has connected to a listener and was not accepted yet.
#[derive(Default)]
struct Pending {
    queue: VecDeque<(SimStream, SocketAddr)>,
    waker: Option<Waker>,
}

#[derive(Clone, Debug)]
struct Link {
    delay_ms: RangeInclusive<u64>,
    cut: bool,
}

impl Default for Link {
    fn default() -> Link {
        Link { delay_ms: 0..=1, cut: false }
    }
}

fn with_net<T>(act: impl FnOnce(&mut Net) -> T) -> T {
    NET.with_borrow_mut(act)
}

/// Takes everything of an earlier run in this thread away.
pub fn clear() {
    // Streams reach for the network at their end, so they are dropped outside of the borrow.
    drop(NET.take());
}

/// Gives a host its address and what its certificate would say.
pub fn add_host(host: HostId, address: IpAddr, identity: Option<PeerIdentity>) {
    let known = Host { address, identity, powered: true, next_port: *EPHEMERAL_PORTS.start() };
    with_net(|net| net.hosts.insert(host, known));
}

/// How long bytes take from one host to another, in milliseconds: drawn anew for each write.
pub fn set_delay_ms(from: HostId, to: HostId, delay_ms: RangeInclusive<u64>) {
    with_net(|net| net.links.entry((from, to)).or_default().delay_ms = delay_ms);
}

/// Cuts or mends one direction. What is written meanwhile waits.
pub fn set_cut(from: HostId, to: HostId, cut: bool) {
    note(|| format!("net {from} -> {to} {}", if cut { "cut" } else { "mended" }));
    let pipes = with_net(|net| {
        net.links.entry((from, to)).or_default().cut = cut;
        net.pipes(|pipe| pipe.from == from && pipe.to == to)
    });
    for pipe in pipes {
        pipe.lock().set_cut(cut);
    }
}

/// Has the next write from one host to another be lost on each of their connections, and the connection break with it.
pub fn lose_next(from: HostId, to: HostId) {
    note(|| format!("net {from} -> {to} loses what comes next"));
    for pipe in with_net(|net| net.pipes(|pipe| pipe.from == from && pipe.to == to)) {
        pipe.lock().lose_next();
    }
}

/// Holds back what is under way and what is written from one host to another on the connections that they have now, each
/// for a time of its own. New connections are whole, so that what was written before comes after what is written later.
pub fn stall(from: HostId, to: HostId, ms: &RangeInclusive<u64>) {
    note(|| format!("net {from} -> {to} stalls"));
    for pipe in with_net(|net| net.pipes(|pipe| pipe.from == from && pipe.to == to)) {
        let ms = draw(|rng| rng.gen_range(ms.clone())).unwrap_or_default();
        pipe.lock().stall(Some(Instant::now() + Duration::from_millis(ms)));
        count(|counts| counts.stalled += 1);
    }
}

/// Ends all stalls: what waited arrives.
pub fn unstall_all() {
    for pipe in with_net(|net| net.pipes(|_| true)) {
        pipe.lock().stall(None);
    }
}

/// How often what happened.
pub fn counts() -> Counts {
    with_net(|net| net.counts)
}

/// Does nothing where the network is looked at already, as at its end.
fn count(add: impl FnOnce(&mut Counts)) {
    let counted = NET.try_with(|net| net.try_borrow_mut().map(|mut net| add(&mut net.counts)));
    drop(counted);
}

/// Ends a direction of a connection at once.
fn break_off(pipe: &SharedPipe) {
    if pipe.lock().reset() {
        count(|counts| match pipe.way {
            Way::Requests => counts.requests_lost += 1,
            Way::Answers => counts.answers_lost += 1,
        });
    }
}

/// Bytes of a connection were read.
fn heard(pipe: &SharedPipe, late: bool) {
    with_net(|net| {
        let newest = net.heard.entry((pipe.from, pipe.to, pipe.way)).or_default();
        if late {
            net.counts.late += 1;
            net.counts.overtaken += u64::from(*newest > pipe.number);
        }
        *newest = pipe.number.max(*newest);
    });
}

/// Mends every link; delays stay.
pub fn mend_all() {
    let cut: Vec<_> = with_net(|net| {
        net.links.iter().filter(|(_, link)| link.cut).map(|(ends, _)| *ends).collect()
    });
    for (from, to) in cut {
        set_cut(from, to, false);
    }
}

/// Ends every connection between two hosts; what was under way is lost, as with a middlebox that forgot them.
pub fn reset(a: HostId, b: HostId) {
    note(|| format!("net {a} - {b} reset"));
    let pipes = with_net(|net| {
        net.pipes(|pipe| (pipe.from, pipe.to) == (a, b) || (pipe.from, pipe.to) == (b, a))
    });
    for pipe in pipes {
        break_off(&pipe);
    }
}

/// From now on nothing of this host is heard, not even that its connections end. Before `runtime::sim::kill`.
pub fn power_off(host: HostId) {
    with_net(|net| {
        if let Some(host) = net.hosts.get_mut(&host) {
            host.powered = false;
        }
    });
}

/// The host answers again; it knows nothing of earlier connections and ends them.
pub fn power_on(host: HostId) {
    let pipes = with_net(|net| {
        let was_off = net
            .hosts
            .get_mut(&host)
            .is_some_and(|host| !std::mem::replace(&mut host.powered, true));
        if was_off { net.pipes(|pipe| pipe.from == host || pipe.to == host) } else { Vec::new() }
    });
    for pipe in pipes {
        break_off(&pipe);
    }
}

impl Net {
    fn pipes(&mut self, wanted: impl Fn(&SharedPipe) -> bool) -> Vec<Arc<SharedPipe>> {
        self.connections.retain(|ends| ends.iter().any(|end| end.strong_count() > 0));
        let pipes = self.connections.iter().flatten().filter_map(Weak::upgrade);
        pipes.filter(|pipe| wanted(pipe)).collect()
    }

    fn link(&self, from: HostId, to: HostId) -> Link {
        self.links.get(&(from, to)).cloned().unwrap_or_default()
    }

    fn is_powered(&self, host: HostId) -> bool {
        self.hosts.get(&host).is_some_and(|host| host.powered)
    }

    fn host_at(&self, address: IpAddr) -> Option<HostId> {
        self.hosts.iter().find(|(_, host)| host.address == address).map(|(id, _)| *id)
    }
}

/// A delay of a link, drawn from the current host's randomness.
fn draw_delay(link: &Link) -> Duration {
    let ms = draw(|rng| rng.gen_range(link.delay_ms.clone())).unwrap_or_default();
    Duration::from_millis(ms)
}

/// The address to dial or bind; simulated hosts have no names.
pub(crate) fn resolve(address: &HostPort) -> io::Result<SocketAddr> {
    let ip = address.ip().ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, "simulated hosts are known by address")
    })?;
    Ok(SocketAddr::new(ip, address.port))
}

/// Connects; where nobody answers it waits for ever, as a dialer without its own deadline does.
pub(crate) async fn connect(to: SocketAddr) -> io::Result<SimStream> {
    let from_host = current().unwrap_or(HostId::OUTSIDE);
    let target = with_net(|net| {
        let host = net.host_at(to.ip())?;
        Some((host, net.link(from_host, host), net.link(host, from_host)))
    });
    let Some((to_host, out, back)) = target else {
        return Err(io::ErrorKind::HostUnreachable.into());
    };
    sleep(draw_delay(&out) + draw_delay(&back)).await;
    let reached = with_net(|net| {
        let whole = !net.link(from_host, to_host).cut && !net.link(to_host, from_host).cut;
        whole && net.is_powered(to_host)
    });
    if !reached {
        std::future::pending::<()>().await;
    }
    let (stream, waker) = with_net(|net| net.join(from_host, to_host, to))?;
    note(|| format!("net {from_host} -> {to_host} connected to port {}", to.port()));
    if let Some(waker) = waker {
        waker.wake();
    }
    Ok(stream)
}

impl Net {
    /// Makes the two ends and queues the far one.
    fn join(
        &mut self,
        from_host: HostId,
        to_host: HostId,
        to: SocketAddr,
    ) -> io::Result<(SimStream, Option<Waker>)> {
        let (out, back) = (self.link(from_host, to_host), self.link(to_host, from_host));
        let dialer = self.hosts.get_mut(&from_host).ok_or(io::ErrorKind::NetworkUnreachable)?;
        let from = SocketAddr::new(dialer.address, dialer.next_port);
        dialer.next_port = dialer.next_port.checked_add(1).unwrap_or(*EPHEMERAL_PORTS.start());
        let (identity, far) = (dialer.identity.clone(), self.hosts.get(&to_host));
        let far_identity = far.and_then(|host| host.identity.clone());
        let pending = self.listeners.get_mut(&to).ok_or(io::ErrorKind::ConnectionRefused)?;
        if pending.queue.len() >= BACKLOG {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        self.connections_made += 1;
        let number = self.connections_made;
        let there = Pipe::shared((from_host, to_host), (Way::Requests, number), out);
        let here = Pipe::shared((to_host, from_host), (Way::Answers, number), back);
        let near = SimStream::new(from, to, far_identity, Arc::clone(&there), Arc::clone(&here));
        let far = SimStream::new(to, from, identity, Arc::clone(&here), Arc::clone(&there));
        self.connections.push([Arc::downgrade(&there), Arc::downgrade(&here)]);
        pending.queue.push_back((far, from));
        Ok((near, pending.waker.take()))
    }
}

/// A bound simulated port.
#[derive(Debug)]
pub(crate) struct SimListener {
    address: SocketAddr,
}

impl SimListener {
    pub(crate) fn bind(address: SocketAddr) -> io::Result<SimListener> {
        with_net(|net| {
            if net.listeners.contains_key(&address) {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            net.listeners.insert(address, Pending::default());
            Ok(SimListener { address })
        })
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.address
    }

    pub(crate) async fn accept(&self) -> (SimStream, SocketAddr) {
        poll_fn(|cx| {
            with_net(|net| {
                let Some(pending) = net.listeners.get_mut(&self.address) else {
                    return Poll::Pending;
                };
                if let Some(accepted) = pending.queue.pop_front() {
                    return Poll::Ready(accepted);
                }
                pending.waker = Some(cx.waker().clone());
                Poll::Pending
            })
        })
        .await
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        // Those that were not accepted end with it; their ends reach for the network, so outside of the borrow.
        let gone = NET.try_with(|net| {
            net.try_borrow_mut().ok().and_then(|mut net| net.listeners.remove(&self.address))
        });
        drop(gone);
    }
}

#[cfg(test)]
#[path = "sim_tests.rs"]
mod tests;
