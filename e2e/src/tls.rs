//! Both ends of TLS as strangers have them, by rustls itself: a client without a certificate, and a server with a forged one
//! that notes whether it was believed.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::crypto::aws_lc_rs;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

const PATIENCE: Duration = Duration::from_secs(20);

const POLL: Duration = Duration::from_millis(10);

/// Connects without a certificate; clones share what they trust.
#[derive(Clone, Debug)]
pub struct Stranger(Arc<ClientConfig>);

impl Stranger {
    /// Trusts the CAs of a file.
    pub fn trusting(ca: &Path) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(ca)? {
            roots.add(certificate?)?;
        }
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self(Arc::new(config)))
    }

    /// Sends `body` behind its length as a 32-bit number; all that is answered until the connection ends.
    pub fn ask(&self, address: SocketAddr, name: &str, body: &[u8]) -> Result<Vec<u8>> {
        let tcp = TcpStream::connect_timeout(&address, PATIENCE).context("cannot connect")?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(name.to_owned())?;
        let mut stream = StreamOwned::new(ClientConnection::new(Arc::clone(&self.0), name)?, tcp);
        let length = u32::try_from(body.len())?.to_be_bytes();
        stream.write_all(&[&length[..], body].concat())?;
        stream.flush()?;
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            // The end came without TLS's own word for it.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {}
            other => drop(other?),
        }
        Ok(answer)
    }
}

/// Listens with a certificate until it is dropped, and closes each connection after its handshake.
#[derive(Debug)]
pub struct Impostor {
    pub address: SocketAddr,
    met: Arc<Mutex<Vec<Result<(), String>>>>,
    stop: Arc<AtomicBool>,
    serving: Option<JoinHandle<()>>,
}

impl Impostor {
    /// Takes connections of a listener, on whichever host that was made.
    pub fn start(listener: TcpListener, cert: &Path, key: &Path) -> Result<Self> {
        let chain = CertificateDer::pem_file_iter(cert)?.collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_file(key)?;
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        let (config, address) = (Arc::new(config), listener.local_addr()?);
        let (met, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        listener.set_nonblocking(true)?;
        let (noted, stopped) = (Arc::clone(&met), Arc::clone(&stop));
        let serving = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((tcp, _)) => {
                        let shaken = shake_hands(tcp, &config).map_err(|e| format!("{e:#}"));
                        noted.lock().unwrap_or_else(PoisonError::into_inner).push(shaken);
                    }
                    Err(_) => thread::sleep(POLL),
                }
            }
        });
        Ok(Self { address, met, stop, serving: Some(serving) })
    }

    /// How each handshake ended so far: believed, or why not.
    pub fn met(&self) -> Vec<Result<(), String>> {
        self.met.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets them.
    pub fn forget(&self) {
        self.met.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(serving) = self.serving.take() {
            drop(serving.join());
        }
    }
}

/// Until the client has said that it believes the certificate, by the last message of its side, or that it does not.
fn shake_hands(mut tcp: TcpStream, config: &Arc<ServerConfig>) -> Result<()> {
    tcp.set_nonblocking(false)?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    tcp.set_write_timeout(Some(PATIENCE))?;
    let mut tls = ServerConnection::new(Arc::clone(config))?;
    while tls.is_handshaking() {
        tls.complete_io(&mut tcp)?;
    }
    tls.send_close_notify();
    tls.complete_io(&mut tcp)?;
    Ok(())
}
