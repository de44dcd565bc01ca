//! What was seen last, for browsers, and what is counted, for programs.

mod board;
mod http;
mod page;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

pub(crate) use board::round;
pub use board::{Board, Health, Shot};
pub(crate) use page::status;

/// The port where none is asked for and this one is free.
const PORT: u16 = 8484;
/// Connections at the same time; a browser keeps two open.
const CONNECTIONS: usize = 16;
/// Pictures, and figures, that a browser gets at most in a second.
const PICTURES_APART: Duration = Duration::from_millis(60);
const FIGURES_APART: Duration = Duration::from_millis(100);
/// Figures come at least that often, so that a page notices when a source is silent.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(500);

/// What is answered to a path.
pub(crate) enum Reply {
    /// A text of a content type.
    Text(&'static str, String),
    /// The newest labelled picture of a board.
    Picture(Arc<Board>),
    /// The labelled pictures of a board, one after another.
    Pictures(Arc<Board>),
    /// Figures again and again; the function waits until there are newer ones.
    Figures(Box<dyn FnMut() -> Value + Send>),
}

pub(crate) const HTML: &str = "text/html; charset=utf-8";

/// What a server shows.
pub(crate) trait Site: Send + Sync {
    /// What is at `path`.
    fn reply(&self, path: &str) -> Option<Reply>;

    /// The paths there are, for who asks for another.
    fn paths(&self) -> &'static str;
}

/// One board by itself.
struct Single(Arc<Board>);

impl Site for Single {
    fn reply(&self, path: &str) -> Option<Reply> {
        match path {
            "/" => Some(Reply::Text(HTML, page::html(&self.0))),
            "/picture.mjpeg" => Some(Reply::Pictures(self.0.clone())),
            "/figures" => {
                let (board, mut version) = (self.0.clone(), u64::MAX);
                Some(Reply::Figures(Box::new(move || {
                    if let Some((newer, _)) = board.newer(version, HEARTBEAT) {
                        version = newer;
                    }
                    board.figures()
                })))
            }
            _ => None,
        }
    }

    fn paths(&self) -> &'static str {
        "There is /, /picture.mjpeg and /figures.\n"
    }
}

/// Answers browsers, until it is dropped.
pub struct Server {
    address: SocketAddr,
    closed: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

impl Server {
    /// Shows a board to browsers of this machine: listens on 127.0.0.1 at `port` (0: any that is free); where none is asked
    /// for, at 8484 or any that is free.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(board: Arc<Board>, port: Option<u16>) -> std::io::Result<Server> {
        let listen = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        let listener = port.map_or_else(|| listen(PORT).or_else(|_| listen(0)), listen)?;
        Server::serve(listener, Arc::new(Single(board)), Vec::new())
    }

    /// Shows a site at `address`, to whoever asks by `localhost`, an address, or one of `names`.
    ///
    /// # Errors
    /// The address is taken, or not one of this machine.
    pub(crate) fn at(
        address: SocketAddr,
        site: impl Site + 'static,
        names: Vec<String>,
    ) -> std::io::Result<Server> {
        Server::serve(TcpListener::bind(address)?, Arc::new(site), names)
    }

    fn serve(listener: TcpListener, site: Arc<dyn Site>, names: Vec<String>) -> std::io::Result<Server> {
        let address = listener.local_addr()?;
        let closed = Arc::new(AtomicBool::new(false));
        let shared = Arc::new(Shared { site, names, closed: closed.clone(), open: AtomicUsize::new(0) });
        let listener = Some(std::thread::spawn(move || accept(&listener, &shared)));
        Ok(Server { address, closed, listener })
    }

    /// Where browsers of this machine find it.
    pub fn url(&self) -> String {
        format!("http://{}/", self.local())
    }

    fn local(&self) -> SocketAddr {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
        // Whoever waits for a connection gets one, and looks.
        let came = TcpStream::connect_timeout(&self.local(), HEARTBEAT);
        // Once it has ended, the port is free.
        if let Some(listener) = self.listener.take().filter(|_| came.is_ok()) {
            let _ = listener.join();
        }
    }
}

/// What all connections share.
struct Shared {
    site: Arc<dyn Site>,
    names: Vec<String>,
    closed: Arc<AtomicBool>,
    open: AtomicUsize,
}

impl Shared {
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for connection in listener.incoming() {
        if shared.is_closed() {
            return;
        }
        let Ok(connection) = connection else {
            // Out of descriptors, say: asking again at once would spin.
            std::thread::sleep(FIGURES_APART);
            continue;
        };
        if shared.open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS {
            shared.open.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let shared = shared.clone();
        std::thread::spawn(move || {
            // A browser that went away is no matter.
            let _ = http::serve(connection, &shared);
            shared.open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}
