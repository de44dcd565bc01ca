//! As much of HTTP/1.1 as a page with a live picture needs: one `GET` for each connection.

use std::io::{self, BufWriter, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use espalier_tasks::image::write_jpeg;
use espalier_tasks::resize::resize;
use espalier_tasks::{Answer, Image, note};
use serde_json::Value;

use super::board::STALE;
use super::{Board, FIGURES_APART, HEARTBEAT, PICTURES_APART, Reply, Shared, Shot};

/// Bytes and number of a request's headers, at most.
const HEAD_BYTES: usize = 8 << 10;
const HEADERS: usize = 64;
/// For a browser to ask, and to take what it gets.
const PATIENCE: Duration = Duration::from_secs(10);
const QUALITY: u8 = 80;
/// A picture whose smaller side is shorter than this is enlarged, unless its larger one would become longer than that.
const SMALL: usize = 160;
const LARGE: usize = 640;

/// Of every answer. Pages of other origins may neither read nor embed what is seen here.
const COMMON: &str = "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nCross-Origin-Resource-Policy: \
                      same-origin\r\nReferrer-Policy: no-referrer\r\nConnection: close\r\n";

/// Answers one request.
pub(super) fn serve(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let request = request(&stream, &shared.names);
    let mut out = BufWriter::new(&stream);
    match request.map(|path| shared.site.reply(&path)) {
        Ok(Some(Reply::Text(kind, text))) => whole(&mut out, "200 OK", kind, text.as_bytes()),
        Ok(Some(Reply::Picture(board))) => match board.latest() {
            Some(shot) => match drawn(&shot, shot.captured.elapsed() >= STALE)? {
                Some(bytes) => whole(&mut out, "200 OK", "image/jpeg", &bytes),
                None => whole(&mut out, "404 Not Found", "text/plain", b"A series has no picture.\n"),
            },
            None => whole(&mut out, "503 Service Unavailable", "text/plain", b"There is no picture yet.\n"),
        },
        Ok(Some(Reply::Pictures(board))) => pictures(&mut out, &board, shared),
        Ok(Some(Reply::Figures(newer))) => figures(&mut out, newer, shared),
        Ok(None) => whole(&mut out, "404 Not Found", "text/plain", shared.site.paths().as_bytes()),
        Err(status) => whole(&mut out, status, "text/plain", format!("{status}\n").as_bytes()),
    }
}

/// The path that is asked for, or the status that refuses the request.
fn request(mut stream: &TcpStream, names: &[String]) -> Result<String, &'static str> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 1024];
    let begun = Instant::now();
    loop {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(&bytes) {
            Ok(httparse::Status::Complete(_)) => return path(&request, names),
            Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES && begun.elapsed() < PATIENCE => {}
            _ => return Err("400 Bad Request"),
        }
        match stream.read(&mut chunk) {
            Ok(size @ 1..) => bytes.extend_from_slice(&chunk[..size]),
            _ => return Err("400 Bad Request"),
        }
    }
}

/// Only who knows this machine by its address or by its own name is answered: a foreign page whose name was pointed here
/// is not.
fn path(request: &httparse::Request<'_, '_>, names: &[String]) -> Result<String, &'static str> {
    let host = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("host"));
    let host = host.and_then(|header| str::from_utf8(header.value).ok()).unwrap_or_default();
    match (request.method, request.path) {
        _ if !is_own(host, names) => Err("421 Misdirected Request"),
        (Some("GET"), Some(path)) => Ok(path.split('?').next().unwrap_or_default().to_owned()),
        _ => Err("405 Method Not Allowed"),
    }
}

fn is_own(host: &str, names: &[String]) -> bool {
    let is_address = host.parse::<SocketAddr>().is_ok() || host.parse::<IpAddr>().is_ok();
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    is_address
        || bracketed.is_some_and(|host| host.parse::<IpAddr>().is_ok())
        || ["localhost"]
            .into_iter()
            .chain(names.iter().map(String::as_str))
            .any(|own| own.eq_ignore_ascii_case(name))
}

fn head(out: &mut impl Write, status: &str, kind: &str) -> io::Result<()> {
    write!(out, "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{COMMON}")
}

fn whole(out: &mut impl Write, status: &str, kind: &str, body: &[u8]) -> io::Result<()> {
    head(out, status, kind)?;
    write!(out, "Content-Length: {}\r\n\r\n", body.len())?;
    out.write_all(body)?;
    out.flush()
}

/// Every newest picture with its answer drawn in, as long as the browser takes them. One that has grown old is sent again,
/// marked as old. Of a series there are none.
fn pictures(out: &mut impl Write, board: &Board, shared: &Shared) -> io::Result<()> {
    head(out, "200 OK", "multipart/x-mixed-replace; boundary=frame")?;
    out.write_all(b"\r\n--frame\r\n")?;
    let (mut version, mut shown): (_, Option<Arc<Shot>>) = (u64::MAX, None);
    while !shared.is_closed() {
        let age = |shot: &Arc<Shot>| shot.captured.elapsed();
        let fresh = shown.as_ref().map_or(HEARTBEAT, |shot| STALE.saturating_sub(age(shot)).min(HEARTBEAT));
        if let Some((newer, shot)) = board.newer(version, fresh) {
            version = newer;
            let is_newer =
                shot.as_ref().map(|shot| shot.captured) != shown.as_ref().map(|shot| shot.captured);
            if is_newer && let Some(shot) = shot {
                let Some(bytes) = drawn(&shot, false)? else { return Ok(()) };
                part(out, bytes)?;
                shown = Some(shot);
                std::thread::sleep(PICTURES_APART);
                continue;
            }
        }
        if let Some(shot) = shown.as_ref().filter(|shot| age(shot) >= STALE) {
            let Some(bytes) = drawn(shot, true)? else { return Ok(()) };
            part(out, bytes)?;
            std::thread::sleep(HEARTBEAT);
        }
    }
    Ok(())
}

/// Browsers show a part when the next boundary is there.
fn part(out: &mut impl Write, bytes: Vec<u8>) -> io::Result<()> {
    write!(out, "Content-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n", bytes.len())?;
    out.write_all(&bytes)?;
    out.write_all(b"\r\n--frame\r\n")?;
    out.flush()
}

/// As a JPEG; a row of a series has no picture.
fn drawn(shot: &Shot, is_old: bool) -> io::Result<Option<Vec<u8>>> {
    let Some(image) = &shot.image else { return Ok(None) };
    let mut image = legible(image, &shot.answer);
    let mut bytes = Vec::new();
    if is_old {
        image.pixels.iter_mut().for_each(|pixel| *pixel /= 3);
        note(&mut image, &format!("{:.1} s old", shot.captured.elapsed().as_secs_f64()));
    } else {
        shot.answer.draw(&mut image);
    }
    write_jpeg(&image, QUALITY, &mut bytes)?;
    Ok(Some(bytes))
}

/// The picture, enlarged where words would cover most of it. Boxes lie in the pixels of the picture as it is.
fn legible(image: &Image, answer: &Answer) -> Image {
    let [height, width] = [image.height, image.width];
    let most = LARGE / height.max(width).max(1);
    match (answer, SMALL.div_ceil(height.min(width).max(1)).min(most)) {
        (Answer::Boxes(_), _) | (_, 0 | 1) => image.clone(),
        (_, factor) => resize(image, [height * factor, width * factor]),
    }
}

/// The figures as server-sent events, each a line of JSON.
fn figures(
    out: &mut impl Write,
    mut newer: Box<dyn FnMut() -> Value + Send>,
    shared: &Shared,
) -> io::Result<()> {
    head(out, "200 OK", "text/event-stream")?;
    out.write_all(b"\r\n")?;
    while !shared.is_closed() {
        write!(out, "data: {}\n\n", newer())?;
        out.flush()?;
        std::thread::sleep(FIGURES_APART);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use espalier_tasks::{Detection, Limits, Prediction, Reading, decode};

    use super::super::Server;
    use super::*;
    use crate::queue::Counts;
    use crate::source::multipart::Multipart;

    #[test]
    fn small_pictures_are_enlarged_where_no_boxes_lie_in_them() {
        let label =
            Answer::Label(Prediction { index: 0, label: "3".into(), confidence: 0.5, scores: vec![0.5] });
        let check = |answer: &Answer, [width, height]: [usize; 2], expected: [usize; 2]| {
            let image = Image::new(width, height, 1, vec![9; width * height]).unwrap();
            let shown = legible(&image, answer);
            assert_eq!([shown.width, shown.height], expected, "{width} x {height}");
        };
        check(&label, [28, 28], [168, 168]);
        check(&label, [100, 40], [400, 160]);
        check(&label, [320, 160], [320, 160]);
        check(&label, [400, 1], [400, 1]);
        check(&Answer::Boxes(Vec::new()), [28, 28], [28, 28]);
    }

    fn shot(number: u64) -> Shot {
        let found =
            Detection { class: 0, label: "<cat>".into(), confidence: 0.875, bounds: [4.0, 24.0, 40.0, 60.0] };
        let image = Image::new(96, 64, 1, vec![90; 96 * 64]).unwrap();
        let answer = Answer::Boxes(vec![found]);
        let image = Some(image);
        Shot { number, image, answer, inference_ms: 3.2541, latency_ms: 5.0, captured: Instant::now() }
    }

    fn show() -> (Arc<Board>, Server) {
        let board = Board::new("<camera>".into(), "a.espalier".into(), vec!["<cat>".into()]);
        board.tally(|tally| tally.counts = Counts { processed: 7, skipped: 2, ..Counts::default() });
        board.shot(shot(7));
        let server = Server::start(board.clone(), Some(0)).unwrap();
        (board, server)
    }

    /// Sends `head` and reads up to `enough` bytes of the answer.
    fn ask(server: &Server, head: &str, enough: usize) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", server.address.port())).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        let mut bytes = Vec::new();
        let _ = stream.take(enough as u64).read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    #[test]
    fn only_questions_from_here_are_answered() {
        let (_board, server) = show();
        let check = |head: &str, status: &str| {
            let answer = ask(&server, head, 1 << 20);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{head:?}: {answer}");
        };
        check("GET / HTTP/1.1\r\nHost: localhost:1\r\n\r\n", "200");
        check("GET /?a HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", "200");
        check("GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", "200");
        check("GET / HTTP/1.1\r\nHost: localhost.evil.example\r\n\r\n", "421");
        check("GET / HTTP/1.1\r\nHost: 127.0.0.1.evil.example\r\n\r\n", "421");
        check("GET /etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n", "404");
        check("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", "421");
        check("GET / HTTP/1.1\r\n\r\n", "421");
        check("POST / HTTP/1.1\r\nHost: localhost\r\n\r\n", "405");
        check("nonsense\r\n\r\n", "400");
        check(&format!("GET / HTTP/1.1\r\nA: {}", "b".repeat(9000)), "400");
    }

    #[test]
    fn the_page_shows_foreign_names_as_text() {
        let (_board, server) = show();
        let page = ask(&server, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 1 << 20);
        assert!(
            page.contains("&lt;camera&gt;") && !page.contains("<camera>") && page.contains("a.espalier"),
            "{page}"
        );
    }

    #[test]
    fn figures_follow_the_stream() {
        let (board, server) = show();
        let figures = |bytes| {
            let text = ask(&server, "GET /figures HTTP/1.1\r\nHost: localhost\r\n\r\n", bytes);
            let line =
                text.lines().filter_map(|line| line.strip_prefix("data: ")).next_back().unwrap().to_owned();
            serde_json::from_str::<serde_json::Value>(&line).unwrap_or_else(|e| panic!("{e}: {line}"))
        };
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n".len() + COMMON.len();
        let first = figures(head + board.figures().to_string().len() + 6);
        assert_eq!((&first["frame"], &first["ms"], &first["skipped"]), (&7.into(), &3.25.into(), &2.into()));
        assert_eq!(first["boxes"][0]["label"], "<cat>");
        board.failing("gone");
        assert_eq!(
            (&board.figures()["trouble"], &board.figures()["source"]),
            (&"gone".into(), &"failing".into())
        );
        board.ended(None);
        assert_eq!(board.figures()["ended"], true);
    }

    #[test]
    fn a_series_has_figures_and_no_picture() {
        let (board, server) = show();
        let values = [("flow".to_owned(), 2.5)].into();
        let reading =
            Reading { score: Some(9.0), alarm: true, threshold: 4.0, column: None, at: None, values };
        board.shot(Shot { image: None, answer: Answer::Reading(reading), ..shot(8) });
        let figures = board.figures();
        assert_eq!(
            (&figures["values"]["flow"], &figures["score"], &figures["alarm"]),
            (&2.5.into(), &9.0.into(), &true.into())
        );
        let all = ask(&server, "GET /picture.mjpeg HTTP/1.1\r\nHost: localhost\r\n\r\n", 1 << 20);
        assert!(all.starts_with("HTTP/1.1 200") && !all.contains("image/jpeg"), "{all}");
    }

    #[test]
    fn pictures_are_a_stream_with_boxes_drawn_in() {
        let (board, server) = show();
        let mut stream = TcpStream::connect(("127.0.0.1", server.address.port())).unwrap();
        stream.write_all(b"GET /picture.mjpeg HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let (mut parts, mut chunk) = (Multipart::new("multipart/x; boundary=frame").unwrap(), [0; 999]);
        let mut picture = || loop {
            if let Some(part) = parts.part() {
                return decode(&part.unwrap(), &Limits::default()).unwrap();
            }
            let size = stream.read(&mut chunk).unwrap();
            assert!(size > 0, "the stream goes on");
            parts.push(&chunk[..size]);
        };
        let image = picture();
        assert_eq!((image.width, image.height, image.channels), (96, 64, 3));
        assert!(image.pixels.chunks(3).any(|p| p[0].abs_diff(p[1]) > 60), "a box in colour");
        board.shot(shot(8));
        assert_eq!(picture().width, 96, "the next one follows");
        let begun = Instant::now();
        let old = picture();
        let took = begun.elapsed();
        assert!(took < STALE + PICTURES_APART * 5, "after a second it is marked as old: {took:?}");
        let brightest = |image: &Image| image.pixels.chunks(3).filter(|p| p[0] > 60).count();
        assert!(brightest(&old) < 96 * 64 / 2, "it is dark");
    }

    #[test]
    fn a_machine_has_the_names_it_is_given() {
        assert!(is_own("Gate.local:8484", &["gate.local".into()]));
        assert!(!is_own("gate.local", &[]));
    }

    #[test]
    fn a_port_that_is_taken_is_an_error_and_dropping_frees_it() {
        let (board, server) = show();
        let port = server.address.port();
        assert!(Server::start(board.clone(), Some(port)).is_err());
        drop(server);
        let again = (0..100).find_map(|_| {
            std::thread::sleep(Duration::from_millis(20));
            Server::start(board.clone(), Some(port)).ok()
        });
        assert!(again.is_some(), "{port} stays taken");
    }
}
