//! A session over a socket.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustls::{ClientConnection, StreamOwned};

use super::session::{Event, Session};
use super::{MqttError, Options, Publication};

/// How often somebody who waits looks whether it is to stop.
const SLICE: Duration = Duration::from_millis(100);
const CHUNK: usize = 16 << 10;

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    fn socket(&self) -> &TcpStream {
        match self {
            Stream::Plain(socket) => socket,
            Stream::Tls(stream) => &stream.sock,
        }
    }

    fn both(&mut self) -> &mut dyn ReadWrite {
        match self {
            Stream::Plain(socket) => socket,
            Stream::Tls(stream) => stream,
        }
    }
}

trait ReadWrite: Read + Write {}

impl<T: Read + Write> ReadWrite for T {}

/// A connection to a broker. Dropping it closes it, which the broker answers with the will; [`Client::close`] does not.
pub struct Client {
    session: Session,
    stream: Stream,
    begun: Instant,
    patience: Duration,
    stop: Arc<AtomicBool>,
    chunk: Vec<u8>,
    /// Bytes sent and received, TLS not counted.
    bytes: (u64, u64),
}

impl Client {
    /// Connects. Gives up early when `stop` becomes true, as does all that waits later.
    ///
    /// # Errors
    /// A broker that is not there, or does not want this client.
    pub fn connect(options: &Options, stop: Arc<AtomicBool>) -> Result<Client, MqttError> {
        let begun = Instant::now();
        let socket = dial(options)?;
        let failed = |e: io::Error| MqttError::Io(e.to_string());
        socket.set_nodelay(true).map_err(failed)?;
        socket.set_write_timeout(Some(SLICE)).map_err(failed)?;
        let stream = match &options.tls {
            None => Stream::Plain(socket),
            Some(tls) => Stream::Tls(Box::new(StreamOwned::new(tls.connection(&options.host)?, socket))),
        };
        let session = Session::new(options, begun.elapsed())?;
        let (patience, chunk, bytes) = (options.patience, vec![0; CHUNK], (0, 0));
        let mut client = Client { session, stream, begun, patience, stop, chunk, bytes };
        while begun.elapsed() < patience {
            if client.poll(SLICE)? == Some(Event::Connected) {
                return Ok(client);
            }
        }
        Err(MqttError::Silence)
    }

    /// Asks for what is published to topics that `filter` describes; an event will say that it is so.
    ///
    /// # Errors
    /// As [`MqttError`] says.
    pub fn subscribe(&mut self, filter: &str) -> Result<(), MqttError> {
        let now = self.begun.elapsed();
        self.session.subscribe(filter, now)?;
        self.flush()
    }

    /// Publishes something; gives the number by which an event will say that it arrived.
    ///
    /// # Errors
    /// As [`MqttError`] says.
    pub fn publish(&mut self, what: &Publication) -> Result<u16, MqttError> {
        let now = self.begun.elapsed();
        let id = self.session.publish(what, now)?;
        self.flush()?;
        Ok(id)
    }

    /// What the broker says next; waits up to `patience` for it.
    ///
    /// # Errors
    /// As [`MqttError`] says; the connection is of no use then.
    pub fn poll(&mut self, patience: Duration) -> Result<Option<Event>, MqttError> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(event) = self.session.event() {
                return Ok(Some(event));
            }
            if self.stop.load(Ordering::Relaxed) {
                return Err(MqttError::Closed);
            }
            self.flush()?;
            let left = deadline.saturating_duration_since(Instant::now());
            self.read(left.min(SLICE))?;
            if let Some(event) = self.session.event() {
                return Ok(Some(event));
            }
            if left.is_zero() {
                return Ok(None);
            }
        }
    }

    /// Whether the broker wants to acknowledge what is under way before it takes more.
    pub fn is_full(&self) -> bool {
        self.session.is_full()
    }

    /// Bytes sent and received so far, without those of TLS.
    pub fn bytes(&self) -> (u64, u64) {
        self.bytes
    }

    /// Says good-bye.
    pub fn close(mut self) {
        let now = self.begun.elapsed();
        self.session.disconnect(now);
        let _ = self.flush();
        if let Stream::Tls(stream) = &mut self.stream {
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    }

    fn read(&mut self, patience: Duration) -> Result<(), MqttError> {
        let now = self.begun.elapsed();
        let due = self.session.due().map_or(patience, |due| due.saturating_sub(now).min(patience));
        let failed = |e: io::Error| MqttError::Io(e.to_string());
        self.stream.socket().set_read_timeout(Some(due.max(Duration::from_millis(1)))).map_err(failed)?;
        match self.stream.both().read(&mut self.chunk) {
            Ok(0) => return Err(MqttError::Closed),
            Ok(size) => {
                self.bytes.1 += size as u64;
                self.session.receive(&self.chunk[..size], self.begun.elapsed());
            }
            Err(error) if waits(&error) => {}
            Err(error) => return Err(failed(error)),
        }
        self.session.tick(self.begun.elapsed());
        self.flush()
    }

    /// Sends what is to be sent, and says what is wrong with the session.
    fn flush(&mut self) -> Result<(), MqttError> {
        let output = self.session.output();
        let sent = self.send(&output);
        match self.session.fault() {
            Some(fault) => Err(fault.clone()),
            None => sent,
        }
    }

    fn send(&mut self, mut output: &[u8]) -> Result<(), MqttError> {
        let begun = Instant::now();
        while !output.is_empty() {
            match self.stream.both().write(output) {
                Ok(0) => return Err(MqttError::Closed),
                Ok(size) => {
                    self.bytes.0 += size as u64;
                    output = &output[size..];
                }
                Err(error) if waits(&error) => {}
                Err(error) => return Err(MqttError::Io(error.to_string())),
            }
            self.may_wait(begun, output.is_empty())?;
        }
        // Of TLS, records may still wait for the socket.
        while let Err(error) = self.stream.both().flush() {
            if !waits(&error) {
                return Err(MqttError::Io(error.to_string()));
            }
            self.may_wait(begun, false)?;
        }
        Ok(())
    }

    fn may_wait(&self, begun: Instant, done: bool) -> Result<(), MqttError> {
        match () {
            () if done => Ok(()),
            () if self.stop.load(Ordering::Relaxed) => Err(MqttError::Closed),
            () if begun.elapsed() > self.patience => Err(MqttError::Silence),
            () => Ok(()),
        }
    }
}

/// A socket to the first address that takes one.
fn dial(options: &Options) -> Result<TcpStream, MqttError> {
    let Options { host, port, patience, .. } = options;
    let shown = |e: io::Error| MqttError::Io(format!("{host}:{port}: {e}"));
    let mut last = io::Error::new(ErrorKind::NotFound, "it has no address");
    for address in (host.as_str(), *port).to_socket_addrs().map_err(shown)? {
        match TcpStream::connect_timeout(&address, *patience) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(shown(last))
}

fn waits(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
