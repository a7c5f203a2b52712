//! The controller: decides on requests one batch at a time and answers when the batch is committed.
//!
//! While a proposal is under way, requests wait; when it is committed, all that wait are decided together, each seeing what
//! those before it changed, and proposed as one batch. So every decision is made on committed state plus its own batch, and
//! nothing is answered before it is durable. Broker sessions are kept by `Mono` time and begin anew with leadership: a
//! restart of the coordinator fences nobody that is alive.
//!
//! Invariants (`check`): every request is answered exactly once; at most one proposal is under way; the image is consistent
//! (a leader is registered, not fenced, in the ISR); exactly the unfenced brokers have a session.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tailway_metadata::record::ClusterRecord;
use tailway_metadata::time::Mono;
use tailway_metadata::{BrokerId, ClusterImage, MetadataLogId, MetadataRecord};
use tailway_wire::ErrorCode;

use super::draft::Draft;
use super::{
    Action, Event, Refusal, Reply, Request, RequestId, Settings, authorities, brokers, membership,
    topics,
};

/// Requests that may wait for the proposal under way.
pub const WAITING_MAX: usize = 1_024;
/// A batch takes no further request once it has so many records.
const BATCH_RECORDS: usize = 10_000;

#[derive(Debug)]
pub struct Controller {
    settings: Settings,
    /// Committed. Empty while not leading.
    image: Arc<ClusterImage>,
    leads: Result<(), String>,
    in_flight: Option<InFlight>,
    waiting: VecDeque<(RequestId, Request)>,
    /// When each unfenced broker was last heard of.
    sessions: BTreeMap<BrokerId, Mono>,
}

#[derive(Debug)]
struct InFlight {
    /// The image once the proposal is committed.
    image: ClusterImage,
    replies: Vec<(RequestId, Reply)>,
}

impl Controller {
    pub fn new(settings: Settings) -> Controller {
        Controller {
            settings,
            image: Arc::default(),
            leads: Err("the coordinator is starting".into()),
            in_flight: None,
            waiting: VecDeque::new(),
            sessions: BTreeMap::new(),
        }
    }

    pub fn on_event(&mut self, event: Event, now: Mono, out: &mut Vec<Action>) {
        match event {
            Event::Leads { image, fresh_log_id } => self.take_office(image, fresh_log_id, now, out),
            Event::Request { id, request } => self.receive(id, request, now, out),
            Event::Committed => self.committed(now, out),
            Event::LeadsNoMore { why } | Event::ProposalFailed { why } => {
                self.leave_office(why, out);
            }
            Event::Tick => self.pump(now, out),
        }
    }

    /// When the next session ends.
    pub fn deadline(&self) -> Option<Mono> {
        if self.leads.is_err() || self.in_flight.is_some() {
            return None;
        }
        self.sessions.values().min().map(|last| *last + self.settings.session_timeout)
    }

    /// What the controller decides on: committed.
    pub fn image(&self) -> &Arc<ClusterImage> {
        &self.image
    }

    pub fn check(&self) {
        self.image.check();
        if let Some(in_flight) = &self.in_flight {
            in_flight.image.check();
            assert!(in_flight.image.offset > self.image.offset, "a proposal has records");
        }
        assert!(self.leads.is_ok() || self.in_flight.is_none(), "only a leader proposes");
        assert!(self.in_flight.is_some() || self.waiting.is_empty(), "nobody waits for nothing");
        assert!(self.waiting.len() <= WAITING_MAX, "{} requests wait", self.waiting.len());
        let live: Vec<BrokerId> = self.image.live_brokers().map(|broker| broker.id).collect();
        let sessions: Vec<BrokerId> = self.sessions.keys().copied().collect();
        assert_eq!(sessions, live, "the unfenced brokers have a session each");
    }

    fn take_office(
        &mut self,
        image: Arc<ClusterImage>,
        fresh_log_id: MetadataLogId,
        now: Mono,
        out: &mut Vec<Action>,
    ) {
        self.leave_office("a new term began".into(), out);
        self.leads = Ok(());
        self.image = image;
        self.sessions.clear();
        self.follow_sessions(now);
        let base = Arc::clone(&self.image);
        let mut draft = Draft::new(&base);
        if base.offset.0 == 0 {
            draft.push(MetadataRecord::Cluster(ClusterRecord {
                cluster_id: self.settings.cluster_id.clone(),
                log_id: fresh_log_id,
            }));
        }
        membership::adopt(&mut draft, &self.settings.first_certificates);
        let finished = draft.finish();
        self.propose(finished, Vec::new(), out);
    }

    fn leave_office(&mut self, why: String, out: &mut Vec<Action>) {
        self.image = Arc::default();
        self.sessions.clear();
        let undecided = self.in_flight.take().into_iter().flat_map(|in_flight| in_flight.replies);
        // The records may still be committed by a later leader, so the outcome is not known.
        for (id, _) in undecided {
            let text = format!("the outcome is not known: {why}");
            let reply = Reply::Refused(Refusal::new(ErrorCode::REQUEST_TIMED_OUT, text));
            out.push(Action::Reply { id, reply });
        }
        for (id, _) in std::mem::take(&mut self.waiting) {
            out.push(Action::Reply { id, reply: not_leading(&why) });
        }
        self.leads = Err(why);
    }

    fn receive(&mut self, id: RequestId, request: Request, now: Mono, out: &mut Vec<Action>) {
        if let Err(why) = &self.leads {
            out.push(Action::Reply { id, reply: not_leading(why) });
            return;
        }
        if let Request::Heartbeat(beat) = &request {
            self.touch(beat.broker_id, beat.broker_epoch.0, now);
        }
        if self.waiting.len() >= WAITING_MAX {
            let text = format!("{WAITING_MAX} requests wait for the disk already; try again");
            let reply = Reply::Refused(Refusal::new(ErrorCode::THROTTLING_QUOTA_EXCEEDED, text));
            out.push(Action::Reply { id, reply });
            return;
        }
        self.waiting.push_back((id, request));
        self.pump(now, out);
    }

    /// The time of arrival counts, also for a heartbeat that waits behind a slow disk.
    fn touch(&mut self, broker_id: BrokerId, epoch: i64, now: Mono) {
        let is_current = self.image.brokers.get(&broker_id).is_some_and(|b| b.epoch.0 == epoch);
        if let Some(session) = self.sessions.get_mut(&broker_id)
            && is_current
        {
            *session = now;
        }
    }

    fn committed(&mut self, now: Mono, out: &mut Vec<Action>) {
        let Some(in_flight) = self.in_flight.take() else { return };
        self.image = Arc::new(in_flight.image);
        self.follow_sessions(now);
        out.extend(in_flight.replies.into_iter().map(|(id, reply)| Action::Reply { id, reply }));
        self.pump(now, out);
    }

    /// Sessions for exactly the unfenced brokers; a new one starts now.
    fn follow_sessions(&mut self, now: Mono) {
        let image = &self.image;
        self.sessions.retain(|id, _| image.is_live(*id));
        for broker in image.live_brokers() {
            self.sessions.entry(broker.id).or_insert(now);
        }
    }

    /// Whether the broker has a session and let it run out.
    pub fn is_silent(&self, broker: BrokerId, now: Mono) -> bool {
        let last = self.sessions.get(&broker);
        last.is_some_and(|last| now.since(*last) >= self.settings.session_timeout)
    }

    /// Decides what waits, unless a proposal is under way.
    fn pump(&mut self, now: Mono, out: &mut Vec<Action>) {
        if self.leads.is_err() || self.in_flight.is_some() {
            return;
        }
        let base = Arc::clone(&self.image);
        let mut draft = Draft::new(&base);
        for id in self.sessions.keys().filter(|id| self.is_silent(**id, now)) {
            brokers::fence(&mut draft, *id);
        }
        let mut replies = Vec::new();
        while draft.records() < BATCH_RECORDS
            && let Some((id, request)) = self.waiting.pop_front()
        {
            let reply = self.decide(&mut draft, &request).unwrap_or_else(Reply::Refused);
            replies.push((id, reply));
        }
        let finished = draft.finish();
        self.propose(finished, replies, out);
    }

    fn propose(
        &mut self,
        finished: Option<(Vec<MetadataRecord>, ClusterImage)>,
        replies: Vec<(RequestId, Reply)>,
        out: &mut Vec<Action>,
    ) {
        match finished {
            Some((records, image)) => {
                out.push(Action::Propose(records));
                self.in_flight = Some(InFlight { image, replies });
            }
            None => out.extend(replies.into_iter().map(|(id, reply)| Action::Reply { id, reply })),
        }
    }

    fn decide(&self, draft: &mut Draft<'_>, request: &Request) -> Result<Reply, Refusal> {
        match request {
            Request::RegisterBroker(request) => brokers::register(draft, request, &self.settings),
            Request::Heartbeat(beat) => brokers::heartbeat(draft, beat),
            Request::CreateTopics(request) => Ok(topics::create(draft, request, &self.settings)),
            Request::DeleteTopics(topics) => Ok(topics::delete(draft, topics)),
            Request::AllocateProducerIds { broker_id, broker_epoch } => {
                brokers::allocate_producer_ids(draft, *broker_id, *broker_epoch)
            }
            Request::CreateToken(new) => membership::create_token(draft, new),
            Request::RevokeToken(id) => membership::revoke_token(draft, id),
            Request::Certify(request) => membership::certify(draft, request),
            Request::RevokeCertificates { which, now } => {
                membership::revoke_certificates(draft, which, *now)
            }
            Request::AddAuthority { first, new } => authorities::add(draft, first, new),
            Request::ActivateAuthority { authority, force, now } => {
                authorities::activate(draft, *authority, *force, *now)
            }
            Request::RetireAuthority { authority, force, now } => {
                authorities::retire(draft, *authority, *force, *now)
            }
            Request::NoteTrust { serial, knows } => authorities::note_trust(draft, serial, *knows),
        }
    }
}

fn not_leading(why: &str) -> Reply {
    Reply::Refused(Refusal::new(
        ErrorCode::NOT_CONTROLLER,
        format!("this coordinator does not lead: {why}"),
    ))
}
