//! Networks that drop, delay and cut, and brokers that misbehave: pushing never waits, and everything arrives in order.

mod broker;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use broker::{Broker, eventually, hub_options, insight, mosquitto, number};
use espalier_agent::{SinkConfig, Sinks};
use espalier_hub::{Ingest, Ledger};
use espalier_wire::Device;
use espalier_wire::mqtt::{Options, Tls};

fn device() -> Device {
    "gate-7".parse().unwrap()
}

fn open(text: &str, folder: &Path) -> Sinks {
    let config: SinkConfig = toml::from_str(text).unwrap();
    Sinks::open(&[config], folder, &device()).unwrap()
}

/// The hub in a thread, until the guard is dropped.
struct HubThread {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl HubThread {
    fn start(path: &Path, options: Options) -> HubThread {
        let (stop, ledger) = (Arc::new(AtomicBool::new(false)), Ledger::open(path).unwrap());
        let until = stop.clone();
        let serve = move || Ingest::new(ledger).serve(&options, &until, &mut |_| {});
        HubThread { stop, thread: Some(std::thread::spawn(serve)) }
    }
}

impl Drop for HubThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// What a proxy does to what passes through it.
#[derive(Default)]
struct Weather {
    /// Milliseconds that each piece is held up.
    delay: AtomicU64,
    /// Nothing passes, and nobody is told.
    swallow: AtomicBool,
    /// Counts up: every connection of before is cut.
    cut: AtomicU64,
    closed: AtomicBool,
}

/// Passes connections on to `port`; gives its own port.
fn proxy(port: u16, weather: Arc<Weather>) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let own = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            if weather.closed.load(Ordering::Relaxed) {
                return;
            }
            let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
            for (from, to) in [(&client, &server), (&server, &client)] {
                let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                let weather = weather.clone();
                std::thread::spawn(move || pass(from, to, &weather));
            }
        }
    });
    own
}

fn pass(mut from: TcpStream, mut to: TcpStream, weather: &Weather) {
    let (life, mut piece) = (weather.cut.load(Ordering::Relaxed), [0; 700]);
    from.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    while weather.cut.load(Ordering::Relaxed) == life && !weather.closed.load(Ordering::Relaxed) {
        match from.read(&mut piece) {
            Ok(0) => break,
            Ok(_) if weather.swallow.load(Ordering::Relaxed) => {
                // A gap in a stream cannot be passed over: the connection is of no use from here on.
                while weather.cut.load(Ordering::Relaxed) == life && !weather.closed.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(20));
                }
            }
            Ok(size) => {
                std::thread::sleep(Duration::from_millis(weather.delay.load(Ordering::Relaxed)));
                if to.write_all(&piece[..size]).is_err() {
                    break;
                }
            }
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// Done-when 4.
#[test]
fn pushing_never_waits_and_everything_arrives_in_order() {
    let Some(program) = mosquitto("a network that drops, delays and cuts") else { return };
    let heavy = espalier_testing::soak("a bad network for 10 minutes, in place of 20 s");
    let time = Duration::from_secs(if heavy { 600 } else { 20 });
    let scratch = tempfile::tempdir().unwrap();
    let broker = Broker::start(&program, scratch.path(), "");
    let path = scratch.path().join("hub.db");
    let _hub = HubThread::start(&path, hub_options(broker.port));
    let weather = Arc::new(Weather::default());
    let port = proxy(broker.port, weather.clone());
    let sinks = open(&format!("type = \"hub\"\nbroker = \"mqtt://localhost:{port}\""), scratch.path());
    let (begun, mut pushed, mut longest, mut slow) = (Instant::now(), 0, Duration::ZERO, 0);
    while begun.elapsed() < time {
        let before = Instant::now();
        sinks.push(&insight(pushed));
        let took = before.elapsed();
        (longest, pushed) = (longest.max(took), pushed + 1);
        slow += u64::from(took > Duration::from_millis(20));
        // Weather changes twice a second.
        if pushed % 50 == 0 {
            let kind = pushed / 50 * 2_654_435_761 % 7;
            weather.delay.store([0, 0, 5, 40, 0, 0, 0][kind as usize], Ordering::Relaxed);
            weather.swallow.store(kind == 4, Ordering::Relaxed);
            weather.cut.fetch_add(u64::from(kind > 4), Ordering::Relaxed);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    weather.delay.store(0, Ordering::Relaxed);
    weather.swallow.store(false, Ordering::Relaxed);
    weather.cut.fetch_add(1, Ordering::Relaxed);
    let ledger = Ledger::open(&path).unwrap();
    let stored = || match ledger.queues().unwrap().first() {
        Some((device, epoch)) => ledger.account(device, *epoch).unwrap().upto,
        None => 0,
    };
    let before = stored();
    eventually("all arrive", Duration::from_secs(100), || stored() == pushed);
    println!(
        "{pushed} pushed, {before} there when the weather cleared; longest push {longest:?}, {slow} over 20 ms; {:?}",
        sinks.counters()
    );
    let (device, epoch) = ledger.queues().unwrap().remove(0);
    let insights = ledger.insights(&device, epoch).unwrap();
    assert!(insights.iter().map(|(_, json)| number(json)).eq(0..pushed), "all of them, in order");
    // A push takes a lock that nobody holds over a disk or a network; what is left is the scheduler's.
    assert!(
        slow * 1000 <= pushed.max(1000) * 2 && longest < Duration::from_millis(500),
        "{slow} slow, {longest:?}"
    );
    assert!(sinks.counters()[0].failures > 0, "the network did fail");
    let closing = Instant::now();
    sinks.close();
    assert!(closing.elapsed() < Duration::from_secs(1), "{:?}", closing.elapsed());
    weather.closed.store(true, Ordering::Relaxed);
}

/// High-water mark of this process's memory, in bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    1024 * line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
}

/// Done-when 5: a packet of 256 MB from the broker is named, counted and survived.
#[test]
fn a_packet_of_256_mb_is_refused_before_it_is_read() {
    let scratch = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let connections = Arc::new(AtomicU64::new(0));
    let count = connections.clone();
    std::thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            count.fetch_add(1, Ordering::Relaxed);
            let mut asked = [0; 500];
            let _ = client.read(&mut asked);
            let _ = client.write_all(&[0x20, 3, 0, 0, 0]);
            // A PUBLISH of 268,435,455 bytes, of which as much comes as is taken.
            let _ = client.write_all(&[0x30, 0xff, 0xff, 0xff, 0x7f]);
            let piece = vec![0; 64 << 10];
            while client.write_all(&piece).is_ok() {}
        }
    });
    let before = peak_memory();
    let sinks = open(&format!("type = \"hub\"\nbroker = \"mqtt://127.0.0.1:{port}\""), scratch.path());
    sinks.push(&insight(1));
    eventually("it connects again", Duration::from_secs(30), || connections.load(Ordering::Relaxed) >= 3);
    let counters = &sinks.counters()[0];
    assert!(counters.state.contains("sent a packet of more than 262144 bytes"), "{counters:?}");
    assert!(counters.failures >= 2 && counters.waiting == 1, "{counters:?}");
    let grown = peak_memory() - before;
    // Other tests of this process need some too.
    assert!(grown < 64 << 20, "{grown} bytes more memory");
}

/// A certificate authority, and certificates by it, as PEM files.
fn certificates(folder: &Path) {
    let authority = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "authority");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&authority).unwrap();
    std::fs::write(folder.join("ca.pem"), certificate.pem()).unwrap();
    let issuer = rcgen::Issuer::new(params, authority);
    for name in ["localhost", "gate-7", "espalier-hub"] {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        std::fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

#[test]
fn with_mutual_tls_only_those_who_prove_themselves_are_heard() {
    let Some(program) = mosquitto("mutual TLS with a real broker") else { return };
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path();
    certificates(folder);
    let at = |name: &str| folder.join(name).display().to_string();
    let tls = format!(
        "cafile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true",
        at("ca.pem"),
        at("localhost.pem"),
        at("localhost.key")
    );
    let broker = Broker::start(&program, folder, &tls);
    let identity = Some((folder.join("espalier-hub.pem"), folder.join("espalier-hub.key")));
    let tls = Some(Tls { ca: Some(folder.join("ca.pem")), identity });
    let path = folder.join("hub.db");
    let _hub = HubThread::start(&path, Options { host: "localhost".into(), tls, ..hub_options(broker.port) });
    let text = |more: &str| format!("type = \"hub\"\nbroker = \"mqtts://localhost:{}\"\n{more}", broker.port);
    let ca = format!("ca = {:?}\n", at("ca.pem"));
    let mine = format!("{ca}certificate = {:?}\nkey = {:?}", at("gate-7.pem"), at("gate-7.key"));
    let good = open(&text(&mine), &folder.join("good"));
    good.push(&insight(1));
    eventually("it is delivered", Duration::from_secs(20), || good.counters()[0].delivered == 1);
    let check = |name: &str, more: &str, fault: &str| {
        let sinks = open(&text(more), &folder.join(name));
        sinks.push(&insight(1));
        eventually("it is refused", Duration::from_secs(20), || sinks.counters()[0].state != "ok");
        let counters = &sinks.counters()[0];
        assert!(counters.delivered == 0 && counters.state.contains(fault), "{name}: {counters:?}");
    };
    check("nobody", &ca, "");
    check("stranger", "", "UnknownIssuer");
}

/// A web server that answers `answers` one after another and then 204; what it was sent comes back.
fn web_server(answers: &'static [&'static str]) -> (u16, std::sync::mpsc::Receiver<(String, String)>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut answers = answers.iter();
        for mut client in listener.incoming().map_while(Result::ok) {
            let (mut text, mut piece) = (String::new(), [0; 4096]);
            let whole = |text: &str| {
                let (head, body) = text.split_once("\r\n\r\n")?;
                let length =
                    head.to_lowercase().split("content-length: ").nth(1)?.lines().next()?.parse().ok()?;
                (body.len() >= length).then_some((head.to_owned(), body.to_owned()))
            };
            while let Ok(size @ 1..) = client.read(&mut piece) {
                text += str::from_utf8(&piece[..size]).unwrap();
                if let Some(request) = whole(&text) {
                    sender.send(request).unwrap();
                    break;
                }
            }
            let status = answers.next().unwrap_or(&"204 No Content");
            let _ = write!(client, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    (port, receiver)
}

#[test]
fn a_webhook_gets_what_it_refused_again_with_the_same_key() {
    let scratch = tempfile::tempdir().unwrap();
    let (port, requests) = web_server(&["503 Service Unavailable", "200 OK", "422 Unprocessable Content"]);
    let sinks =
        open(&format!("type = \"webhook\"\nurl = \"http://me:pw@127.0.0.1:{port}/hook\""), scratch.path());
    (0..3).for_each(|number| sinks.push(&insight(number)));
    eventually("all are delivered", Duration::from_secs(30), || sinks.counters()[0].waiting == 0);
    eventually("and counted", Duration::from_secs(5), || sinks.counters()[0].rejected == 1);
    let requests: Vec<_> = requests.try_iter().collect();
    let header = |head: &str, name: &str| {
        let line = head.lines().find(|line| line.to_lowercase().starts_with(name));
        line.map(|line| line.split_once(": ").unwrap().1.to_owned())
            .unwrap_or_else(|| panic!("{name}: {head}"))
    };
    let seen: Vec<_> = requests
        .iter()
        .map(|(head, body)| {
            assert!(head.starts_with("POST /hook HTTP/1.1"), "{head}");
            assert_eq!(header(head, "authorization"), "Basic bWU6cHc=");
            let message = espalier_wire::Message::from_json(body.as_bytes()).unwrap();
            assert_eq!(header(head, "idempotency-key"), message.key());
            number(message.entry.insight.get())
        })
        .collect();
    assert_eq!(seen, [0, 0, 1, 2], "the first twice");
}
