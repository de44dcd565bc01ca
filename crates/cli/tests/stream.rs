//! Streams through the real binary: every source, what is broken in them, how they end, and what a browser sees.

mod common;
#[path = "common/detector.rs"]
mod detector;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use common::{Said, espalier, fresh, run};
use detector::detector;
use espalier_agent::Multipart;
use espalier_tasks::image::{Image, Limits, decode, write_jpeg, write_png};
use serde_json::Value;

const RED: [u8; 3] = [255, 0, 0];
const GREEN: [u8; 3] = [0, 255, 0];

fn image(width: usize, height: usize, colour: [u8; 3]) -> Image {
    Image::new(width, height, 3, colour.repeat(width * height)).unwrap()
}

fn jpeg(width: usize, height: usize, colour: [u8; 3]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_jpeg(&image(width, height, colour), 90, &mut bytes).unwrap();
    bytes
}

fn png(width: usize, height: usize, colour: [u8; 3]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_png(&image(width, height, colour), &mut bytes).unwrap();
    bytes
}

/// A folder with the package of a detector that finds what is red and what is green.
fn fixture() -> &'static Path {
    static FIXTURE: OnceLock<PathBuf> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let folder = fresh("stream");
        let metadata =
            [("task", "detect"), ("names", "{0: 'red', 1: 'green'}"), ("imgsz", "[8, 8]"), ("stride", "8")];
        fs::write(folder.join("a.onnx"), detector(&[1, 3, 0, 0], &[6, 2], &metadata)).unwrap();
        fs::write(folder.join("raw.onnx"), detector(&[1, 3, 8, 8], &[6, 2], &[])).unwrap();
        for name in ["a", "raw"] {
            let [from, to] =
                ["onnx", "espalier"].map(|e| folder.join(format!("{name}.{e}")).display().to_string());
            let said = run(&["import", &from, "--out", &to]);
            assert_eq!(said.status, Some(0), "{}", said.err);
        }
        folder
    })
}

fn package() -> String {
    fixture().join("a.espalier").display().to_string()
}

/// The command on a stream, ready to start.
fn stream(source: &str, flags: &[&str]) -> Command {
    let package = package();
    let mut command =
        espalier(&[&["run", &package, "--source", source, "--json", "--threads", "1"], flags].concat());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn said(child: Child) -> Said {
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).expect("the command speaks UTF-8");
    Said { status: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

fn answers(said: &Said) -> Vec<Value> {
    said.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// Frames seen, processed, skipped and broken, as the summary says; they have to add up.
fn counts(said: &Said) -> [u64; 4] {
    let line = said
        .err
        .lines()
        .find(|line| line.contains(" frames seen = "))
        .unwrap_or_else(|| panic!("{}", said.err));
    let numbers = line.split(';').next().unwrap().split_whitespace().filter_map(|word| word.parse().ok());
    let counts: [u64; 4] = numbers.collect::<Vec<_>>().try_into().unwrap();
    assert_eq!(counts[0], counts[1] + counts[2] + counts[3], "{line}");
    assert_eq!(counts[1], said.out.lines().count() as u64, "a line for each processed frame");
    assert!(line.contains("inference p50 ") && line.contains("end to end p50 "), "{line}");
    counts
}

/// What `predict` says about pictures, without the names of their files.
fn predicted(name: &str, pictures: &[Vec<u8>]) -> Vec<Value> {
    let folder = fresh(name);
    let files = pictures.iter().enumerate().map(|(i, bytes)| {
        let path = folder.join(format!("{i}.bin"));
        fs::write(&path, bytes).unwrap();
        path.display().to_string()
    });
    let (files, package): (Vec<String>, _) = (files.collect(), package());
    let files = files.iter().map(String::as_str);
    let said = run(&["predict", &package, "--json"].into_iter().chain(files).collect::<Vec<_>>());
    assert_eq!(said.status, Some(0), "{}", said.err);
    answers(&said).iter().map(|answer| answer["boxes"].clone()).collect()
}

fn boxes(answers: &[Value]) -> Vec<Value> {
    answers.iter().map(|answer| answer["boxes"].clone()).collect()
}

/// Whole pictures of several sizes, and a stream of them with three faults between.
fn with_faults() -> (Vec<Vec<u8>>, Vec<u8>) {
    let whole = vec![jpeg(16, 16, RED), jpeg(32, 8, GREEN), jpeg(8, 24, [200, 30, 0]), jpeg(16, 16, GREEN)];
    let cut = &whole[0][..whole[0].len() - 9];
    let mut damaged = whole[1].clone();
    // Other tables than the header says, so that no decoder makes a picture of it.
    let scan = damaged.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap();
    damaged[scan + 6] = 0x77;
    let bytes = [
        &whole[0],
        cut,
        &whole[1],
        &damaged,
        b"HTTP/1.1 and other noise",
        &whole[2],
        &b"\0\0"[..],
        &whole[3],
    ]
    .concat();
    (whole, bytes)
}

fn check_with_faults(said: &Said, whole: &[Vec<u8>], name: &str) {
    assert_eq!((said.status, counts(said)), (Some(0), [7, 4, 0, 3]), "{}", said.err);
    for words in [
        "frame 2 is broken: JPEG: it is cut off",
        "frame 4 is broken: JPEG: ",
        "frame 5 is broken: bytes that are no",
    ] {
        assert!(said.err.contains(words), "{words}: {}", said.err);
    }
    let answers = answers(said);
    let numbers: Vec<_> = answers.iter().map(|answer| answer["frame"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 3, 6, 7]);
    assert!(
        answers
            .iter()
            .all(|answer| answer["ms"].as_f64().unwrap() > 0.0 && answer["time"].as_f64().unwrap() > 1.6e9)
    );
    assert_eq!(boxes(&answers), predicted(name, whole));
}

#[test]
fn a_file_of_jpegs_is_answered_like_its_pictures() {
    let (whole, bytes) = with_faults();
    let file = fixture().join("faults.mjpeg");
    fs::write(&file, bytes).unwrap();
    let said = said(stream(file.to_str().unwrap(), &[]).spawn().unwrap());
    check_with_faults(&said, &whole, "predicted-file");
}

#[test]
fn standard_input_is_a_stream_too() {
    let (mut whole, mut bytes) = with_faults();
    let mut child = stream("-", &[]).stdin(Stdio::piped()).spawn().unwrap();
    bytes.splice(0..whole[0].len(), png(20, 20, RED));
    whole[0] = png(20, 20, RED);
    child.stdin.take().unwrap().write_all(&bytes).unwrap();
    check_with_faults(&said(child), &whole, "predicted-input");
}

#[test]
fn a_folder_is_read_by_name_and_a_picture_alone() {
    let folder = fresh("stream-folder");
    let pictures = [
        ("9.png", png(16, 16, RED)),
        ("10.jpg", jpeg(16, 8, GREEN)),
        ("11.BMP", common::picture(16, "left", 1)),
    ];
    pictures.iter().for_each(|(name, bytes)| fs::write(folder.join(name), bytes).unwrap());
    fs::write(folder.join("10b.jpg"), b"\xff\xd8\xff no picture").unwrap();
    fs::write(folder.join("notes.txt"), b"no picture").unwrap();
    let said = said(stream(folder.to_str().unwrap(), &[]).spawn().unwrap());
    assert_eq!((said.status, counts(&said)), (Some(0), [4, 3, 0, 1]), "{}", said.err);
    assert!(said.err.contains("10b.jpg) is broken: JPEG"), "{}", said.err);
    let (answers, files) = (answers(&said), pictures.map(|(name, _)| folder.join(name)));
    assert!(
        answers.iter().map(|a| a["file"].as_str().unwrap()).eq(files.iter().map(|f| f.to_str().unwrap()))
    );
    let bytes = files.clone().map(|file| fs::read(file).unwrap());
    assert_eq!(boxes(&answers), predicted("predicted-folder", &bytes));

    let one = espalier(&["run", &package(), "--source", files[0].to_str().unwrap()]).output().unwrap();
    let text = String::from_utf8(one.stdout).unwrap();
    assert!(
        one.status.success() && text.starts_with("1  ") && text.contains("red 100.0 % at 4,4 to 12,12"),
        "{text}"
    );
}

/// A server on this machine that gives connection after connection to `serve`, with the request's head.
fn server(serve: impl Fn(usize, &str, &mut TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for (number, connection) in listener.incoming().enumerate() {
            let mut connection = connection.unwrap();
            let mut reader = BufReader::new(connection.try_clone().unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).is_ok_and(|size| size > 0) {}
            serve(number, &head, &mut connection);
        }
    });
    port
}

fn send(connection: &mut TcpStream, bytes: &[u8]) -> bool {
    connection.write_all(bytes).and_then(|()| connection.flush()).is_ok()
}

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=part\r\n\r\n";

fn part(bytes: &[u8], length: Option<usize>) -> Vec<u8> {
    let length = length.map(|length| format!("Content-Length: {length}\r\n")).unwrap_or_default();
    [b"--part\r\nContent-Type: image/jpeg\r\n", length.as_bytes(), b"\r\n", bytes, b"\r\n"].concat()
}

#[test]
fn http_with_a_password_faults_and_a_cut() {
    let pictures = [jpeg(16, 16, RED), jpeg(24, 16, GREEN), jpeg(16, 16, GREEN), jpeg(8, 8, RED)];
    let sent = pictures.clone();
    let port = server(move |number, head, connection| {
        if !head.to_ascii_lowercase().contains("authorization: basic bwu6z2vozt8vza==") {
            send(connection, b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n");
        } else if number == 0 {
            send(connection, HEAD.as_bytes());
            send(connection, &part(&sent[0], Some(sent[0].len())));
            send(connection, &part(b"no picture", None));
            // A length that lies, and a part that is cut with the connection.
            send(connection, &part(&sent[1], Some(sent[1].len() + 1000)));
            send(connection, &part(&sent[2][..sent[2].len() - 40], Some(sent[2].len()))[..200]);
        } else {
            send(connection, HEAD.as_bytes());
            send(
                connection,
                &[part(&sent[2], None), part(&sent[3], Some(sent[3].len())), b"--part--\r\n".to_vec()]
                    .concat(),
            );
        }
    });
    let source = format!("http://me:${{ESPALIER_TEST_PW}}@127.0.0.1:{port}/video?stream=1");
    let child = stream(&source, &["--policy", "every"]).env("ESPALIER_TEST_PW", "gehe?/d").spawn().unwrap();
    let first = said(child);
    assert_eq!((first.status, counts(&first)), (Some(0), [6, 4, 0, 2]), "{}", first.err);
    assert_eq!(boxes(&answers(&first)), predicted("predicted-http", &pictures));
    assert!(first.err.contains("frame 2 is broken: not an image"), "{}", first.err);
    assert!(first.err.contains("next attempt in 0.5 s"), "{}", first.err);
    assert!(!first.err.contains("gehe"), "{}", first.err);

    let typed = format!("http://me:falsch@127.0.0.1:{port}/video");
    let refused = said(stream(&typed, &[]).spawn().unwrap());
    assert_eq!(refused.status, Some(1));
    assert!(
        refused.err.contains("http://me:***@127.0.0.1") && refused.err.contains("401"),
        "{}",
        refused.err
    );
    assert!(!refused.err.contains("falsch"), "{}", refused.err);
}

#[test]
fn what_is_live_never_falls_behind() {
    const FRAMES: usize = 400;
    let (small, large) = (jpeg(16, 16, RED), jpeg(1600, 1200, RED));
    let last = jpeg(16, 16, GREEN);
    let port = server(move |_, _, connection| {
        send(connection, HEAD.as_bytes());
        for number in 1..FRAMES {
            let bytes = if number % 4 == 0 { &small } else { &large };
            send(connection, &part(bytes, Some(bytes.len())));
        }
        send(connection, &[&part(&last, None)[..], b"--part--\r\n"].concat());
    });
    let said = said(stream(&format!("http://127.0.0.1:{port}/"), &[]).spawn().unwrap());
    let [seen, processed, skipped, broken] = counts(&said);
    assert_eq!((said.status, seen, broken), (Some(0), FRAMES as u64, 0), "{}", said.err);
    assert!(skipped > 0 && processed > 0, "{}", said.err);
    let answers = answers(&said);
    assert_eq!(answers.last().unwrap()["frame"], FRAMES as u64, "the newest is always answered");
    assert_eq!(answers.last().unwrap()["boxes"][0]["label"], "green");
}

#[test]
fn other_answers_over_http() {
    let port = server(|_, head, connection| {
        let picture = jpeg(16, 16, RED);
        let (kind, body): (_, &[u8]) =
            if head.contains("/picture") { ("image/jpeg", &picture) } else { ("text/html", b"<p>") };
        send(
            connection,
            format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", body.len())
                .as_bytes(),
        );
        send(connection, body);
    });
    let picture = said(stream(&format!("http://127.0.0.1:{port}/picture"), &[]).spawn().unwrap());
    assert_eq!((picture.status, counts(&picture)), (Some(0), [1, 1, 0, 0]), "{}", picture.err);
    let page = said(stream(&format!("http://127.0.0.1:{port}/page"), &[]).spawn().unwrap());
    assert_eq!(page.status, Some(1));
    assert!(
        page.err.contains("it answers with text/html, which is neither pictures nor a video"),
        "{}",
        page.err
    );
}

/// The first `n` lines that a running command prints.
fn lines(child: &mut Child, n: usize) -> String {
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    (0..n).for_each(|_| assert!(reader.read_line(&mut text).unwrap() > 0, "{text}"));
    child.stdout = Some(reader.into_inner());
    text
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_cleanly() {
    for signal in ["-INT", "-TERM"] {
        let mut child = stream("-", &[]).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(&jpeg(16, 16, RED).repeat(3)).unwrap();
        let begun = lines(&mut child, 3);
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        let asked = Instant::now();
        let mut ended = said(child);
        assert!(asked.elapsed() < Duration::from_secs(5), "while standard input stays open");
        ended.out.insert_str(0, &begun);
        assert_eq!((ended.status, counts(&ended)), (Some(0), [3, 3, 0, 0]), "{}", ended.err);
        drop(stdin);
    }
}

/// A line that a running command says on stderr; what follows is collected.
fn line_of(child: &mut Child, words: &str) -> (String, Arc<Mutex<String>>) {
    let mut reader = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains(words) {
        line.clear();
        assert!(reader.read_line(&mut line).unwrap() > 0, "nothing says {words}");
    }
    let rest = Arc::new(Mutex::new(String::new()));
    let collected = rest.clone();
    std::thread::spawn(move || {
        for line in reader.lines().map_while(Result::ok) {
            *collected.lock().unwrap() += &format!("{line}\n");
        }
    });
    (line, rest)
}

#[test]
fn a_browser_sees_the_stream() {
    let mut child = stream("-", &["--show", "--port", "0"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let (line, rest) = line_of(&mut child, "live picture: http://127.0.0.1:");
    let host = line.trim().trim_end_matches('/').rsplit_once('/').unwrap().1.to_owned();
    let ask = |path: &str| {
        let mut connection = TcpStream::connect(&host).unwrap();
        connection.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        connection.write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).unwrap();
        connection
    };
    let mut page = String::new();
    ask("/").read_to_string(&mut page).unwrap();
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.contains("standard input"), "{page}");
    assert!(
        page.contains("a.espalier") && page.contains("connect-src 'self'") && !page.contains("src=\"http"),
        "{page}"
    );

    stdin.write_all(&jpeg(64, 48, RED)).unwrap();
    lines(&mut child, 1);
    let (mut pictures, mut parts) =
        (ask("/picture.mjpeg"), Multipart::new("multipart/x; boundary=frame").unwrap());
    let mut chunk = [0; 4096];
    let picture = loop {
        let size = pictures.read(&mut chunk).unwrap();
        assert!(size > 0);
        parts.push(&chunk[..size]);
        if let Some(part) = parts.part() {
            break decode(&part.unwrap(), &Limits::default()).unwrap();
        }
    };
    assert_eq!((picture.width, picture.height), (64, 48));
    assert!(picture.pixels.chunks(3).any(|p| p[0] < 200), "a box is drawn into the red");
    let mut events = BufReader::new(ask("/figures")).lines().map(Result::unwrap);
    let event = events.find_map(|line| line.strip_prefix("data: ").map(String::from)).unwrap();
    let event: Value = serde_json::from_str(&event).unwrap();
    assert_eq!(
        (&event["frame"], &event["processed"], &event["boxes"][0]["label"]),
        (&1.into(), &1.into(), &"red".into())
    );

    drop(stdin);
    let ended = events
        .filter_map(|line| line.strip_prefix("data: ").map(String::from))
        .any(|line| line.contains("\"ended\":true"));
    assert!(ended, "the page hears of the end");
    assert!(child.wait().unwrap().success());
    std::thread::sleep(Duration::from_millis(100));
    assert!(rest.lock().unwrap().contains("1 frames seen = 1 processed"), "{}", rest.lock().unwrap());
}

#[test]
fn videos_come_through_ffmpeg_every_frame() {
    if !espalier_testing::ffmpeg("a video file") {
        return;
    }
    let folder = fresh("stream-video");
    let video = folder.join("-a'b %d.mp4");
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i", "color=red:size=64x48:rate=5:duration=3"])
        .args(["-f", "lavfi", "-i", "sine=duration=3", "-c:v", "mpeg4"])
        .arg(format!("file:{}", video.display()))
        .status();
    assert!(made.unwrap().success());
    let video_said = said(stream(video.to_str().unwrap(), &[]).spawn().unwrap());
    assert_eq!((video_said.status, counts(&video_said)), (Some(0), [15, 15, 0, 0]), "{}", video_said.err);
    assert!(answers(&video_said).iter().all(|answer| answer["boxes"][0]["label"] == "red"));

    let text = folder.join("text.mp4");
    fs::write(&text, b"this is no video").unwrap();
    let text_said = said(stream(text.to_str().unwrap(), &[]).spawn().unwrap());
    assert_eq!(text_said.status, Some(1));
    assert!(text_said.err.contains("ffmpeg: ") && text_said.err.contains("text.mp4"), "{}", text_said.err);
}

#[test]
fn without_ffmpeg_the_error_says_so() {
    let video = fixture().join("some.mp4");
    fs::write(&video, b"whatever").unwrap();
    let said = said(stream(video.to_str().unwrap(), &[]).env("PATH", "").spawn().unwrap());
    assert_eq!(said.status, Some(1));
    assert!(said.err.contains("the program ffmpeg, which is not installed"), "{}", said.err);
}

/// The command lines of all processes.
#[cfg(target_os = "linux")]
fn command_lines() -> String {
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path().join("cmdline"));
    processes
        .filter_map(|path| fs::read(path).ok())
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .collect()
}

/// As much of an RTSP camera as `ffmpeg` asks for: a password by the method Basic, then an MPEG transport stream in the
/// connection itself (RFC 2326; RFC 2250, section 2).
fn camera(first: &str, connection: &mut TcpStream, password: &str, video: &[u8]) {
    let mut head = first.to_owned();
    while let Some((method, _)) = head.split_once(' ') {
        let number = head.lines().find_map(|line| line.strip_prefix("CSeq: ")).unwrap_or("0");
        let sdp =
            "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:t\r\n";
        let (status, header, body) = match method {
            "OPTIONS" => ("200 OK", "Public: DESCRIBE, SETUP, PLAY", ""),
            _ if !head.contains(password) => ("401 Unauthorized", "WWW-Authenticate: Basic realm=\"c\"", ""),
            "DESCRIBE" => ("200 OK", "Content-Type: application/sdp", sdp),
            "SETUP" => ("200 OK", "Session: 1\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1", ""),
            _ => ("200 OK", "Session: 1", ""),
        };
        let length = body.len();
        let text = format!(
            "RTSP/1.0 {status}\r\nCSeq: {number}\r\n{header}\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        send(connection, text.as_bytes());
        if method == "PLAY" {
            for (number, packets) in video.chunks(7 * 188).enumerate() {
                let (size, number) = (12 + packets.len() as u16, number as u16);
                let rtp = [
                    &[0x80, 33][..],
                    &number.to_be_bytes(),
                    &(u32::from(number) * 900).to_be_bytes(),
                    &[0, 0, 0, 1],
                ];
                send(connection, &[b"$\0", &size.to_be_bytes()[..], &rtp.concat(), packets].concat());
            }
            return;
        }
        head.clear();
        let mut byte = [0];
        while !head.ends_with("\r\n\r\n") && connection.read(&mut byte).is_ok_and(|size| size > 0) {
            head.push(char::from(byte[0]));
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn rtsp_with_a_password_that_is_on_no_command_line() {
    if !espalier_testing::ffmpeg("an RTSP address") {
        return;
    }
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i", "color=red:size=64x48:rate=5:duration=4"])
        .args(["-c:v", "mpeg2video", "-f", "mpegts", "pipe:1"])
        .output();
    let (video, seen) = (made.unwrap().stdout, Arc::new(Mutex::new(String::new())));
    let inside = seen.clone();
    let port = server(move |_, head, connection| {
        *inside.lock().unwrap() = command_lines();
        if head.contains("/missing") {
            send(connection, b"RTSP/1.0 404 Not Found\r\nCSeq: 1\r\n\r\n");
        } else {
            // me:geheim'7
            camera(head, connection, "Basic bWU6Z2VoZWltJzc=", &video);
        }
    });
    let at = |path: &str| {
        let source = format!("rtsp://me:${{ESPALIER_TEST_PW}}@127.0.0.1:{port}/{path}");
        stream(&source, &["--policy", "every"]).env("ESPALIER_TEST_PW", "geheim'7").spawn().unwrap()
    };
    let mut child = at("live");
    let begun = lines(&mut child, 10);
    let processes = seen.lock().unwrap().clone();
    assert!(
        processes.contains("ffmpeg") && !processes.contains("geheim"),
        "the password is on a command line"
    );
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let ended = Said { out: begun, ..said(child) };
    assert_eq!(ended.status, Some(0), "{}", ended.err);
    assert!(answers(&ended).iter().all(|answer| answer["boxes"][0]["label"] == "red"));

    let missing = said(at("missing"));
    assert_eq!(missing.status, Some(1));
    assert!(
        missing.err.contains("rtsp://me:***@127.0.0.1") && missing.err.contains("404"),
        "{}",
        missing.err
    );
    for said in [ended, missing] {
        assert!(!said.err.contains("geheim"), "{}", said.err);
    }
}

#[test]
fn what_is_wrong_is_said_in_a_sentence() {
    let check = |args: &[&str], status: i32, words: &str| {
        let said = run(args);
        assert_eq!(said.status, Some(status), "{args:?}: {}", said.err);
        assert!(said.err.contains(words), "{args:?}: {}", said.err);
    };
    let (package, raw) = (package(), fixture().join("raw.espalier").display().to_string());
    let file = fixture().join("one.jpg").display().to_string();
    fs::write(&file, jpeg(8, 8, RED)).unwrap();
    check(&["run", &package], 2, "--source");
    check(
        &["run", &package, "--source", &file, "--input", "x=x.npy", "--out", "o"],
        2,
        "cannot be used with",
    );
    check(&["run", &package, "--input", "x=x.npy"], 2, "--out");
    check(&["run", &package, "--source", "nowhere.mjpeg"], 2, "nowhere.mjpeg: there is no such file");
    check(&["run", &package, "--source", "9973"], 2, "there is no camera 9973");
    check(&["run", &package, "--source", &file, "--rate", "0"], 2, "--rate");
    check(&["run", &package, "--source", &file, "--port", "1"], 2, "--show");
    check(&["run", &raw, "--source", &file], 2, "espalier import MODEL.onnx --task");
    let empty = fresh("stream-empty").display().to_string();
    check(&["run", &package, "--source", &empty], 2, "it holds no picture");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    check(&["run", &package, "--source", &file, "--show", "--port", &port], 1, &format!("--port {port}"));
    let nothing = fixture().join("empty.mjpeg");
    fs::write(&nothing, b"").unwrap();
    fs::write(fixture().join("no.jpg"), b"no picture").unwrap();
    check(
        &["run", &package, "--source", fixture().join("no.jpg").to_str().unwrap()],
        1,
        "no frame of the source is a picture",
    );
    check(&["run", &package, "--source", nothing.to_str().unwrap()], 1, "the source gave no frame");
}

#[test]
fn a_rate_is_kept() {
    let file = fixture().join("ten.mjpeg");
    fs::write(&file, jpeg(8, 8, RED).repeat(10)).unwrap();
    let begun = Instant::now();
    let said = said(stream(file.to_str().unwrap(), &["--rate", "20"]).spawn().unwrap());
    assert_eq!((said.status, counts(&said)), (Some(0), [10, 10, 0, 0]), "{}", said.err);
    assert!(begun.elapsed() > Duration::from_millis(440), "ten frames at 20 a second take 0.45 s");
}

/// `espalier agent` is the agent of its own program: same configuration, same words.
#[test]
fn the_agent_runs_a_configuration() {
    let folder = fresh("agent");
    fs::write(folder.join("two.mjpeg"), [jpeg(16, 16, RED), jpeg(16, 16, GREEN)].concat()).unwrap();
    let config = folder.join("agent.toml");
    let write = |uri: &str| {
        let text = format!(
            "device = {{ name = \"d\" }}\nstatus = {{ enabled = false }}\n[[pipeline]]\nname = \"gate\"\n\
             source = {{ uri = \"{uri}\" }}\nmodel = {{ path = \"{}\" }}\n",
            package()
        );
        fs::write(&config, text).unwrap();
    };
    let path = config.display().to_string();
    write("two.mjpeg");
    let checked = run(&["agent", "--config", &path, "--check"]);
    assert_eq!(checked.status, Some(0), "{}", checked.err);
    assert!(
        checked.out.starts_with("gate: ") && checked.out.contains("golden samples agree"),
        "{}",
        checked.out
    );
    let ran = run(&["agent", "--config", &path]);
    assert_eq!(ran.status, Some(0), "{}", ran.err);
    assert!(ran.err.contains("2 frames seen = 2 processed + 0 skipped + 0 broken"), "{}", ran.err);
    write("");
    let wrong = run(&["agent", "--config", &path]);
    assert!(
        wrong.status == Some(2) && wrong.err.contains("pipeline[0].source.uri = \"\": "),
        "{}",
        wrong.err
    );
    let missing = run(&["agent"]);
    assert!(missing.status == Some(2) && missing.err.contains("--config"), "{}", missing.err);
}
