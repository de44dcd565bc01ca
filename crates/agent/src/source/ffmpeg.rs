//! Everything that `ffmpeg` can decode, by `ffmpeg` in a process of its own: what crashes there does not crash here.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::SourceError;
use super::feed::{End, Feed};
use crate::address::Address;

/// Lines of the program's messages that are kept, and bytes of a line.
const LINES: usize = 3;
const LINE_BYTES: u64 = 2000;

/// Microseconds without anything from a camera of the network, after which it counts as gone.
const PATIENCE: u32 = 10_000_000;
/// The same of the program itself, whatever it waits for.
const SILENCE: Duration = Duration::from_secs(12);

/// A video file, every frame of it.
pub(super) fn file(path: &Path, feed: &mut Feed) -> Result<(), SourceError> {
    // As a URL of the scheme `file`, no name is taken for an option or for another protocol.
    let mut input = std::ffi::OsString::from("file:");
    input.push(path);
    let mut command = command();
    command.args(["-protocol_whitelist", "file,crypto,data", "-i"]).arg(input);
    run(command, None, Duration::MAX, feed, &|text| text.to_owned()).map(drop)
}

/// A camera of this machine (Video4Linux).
pub(super) fn camera(path: &Path, feed: &mut Feed) -> Result<End, SourceError> {
    let mut command = command();
    command.args(["-f", "v4l2", "-i"]).arg(path);
    run(command, None, SILENCE, feed, &|text| text.to_owned())
}

/// An address. It goes to the program through its standard input, as a list of one file: command lines can be read by
/// every user of the machine.
pub(super) fn remote(address: &Address, feed: &mut Feed) -> Result<End, SourceError> {
    let mut command = command();
    command.args(["-f", "concat", "-safe", "0"]);
    command.args([
        "-protocol_whitelist",
        "pipe,fd,http,https,httpproxy,tls,tcp,udp,rtp,srtp,rtsp,rtsps,rtmp,rtmps,srt,crypto",
    ]);
    command.args(["-i", "pipe:0"]);
    let list = list(address.url())?;
    let result = run(command, Some(list), SILENCE, feed, &|text| address.redact(text));
    result.map_err(|error| SourceError::Failed(format!("{address}: {error}")))
}

/// The address as a list for the demuxer `concat`, with what its protocol needs.
fn list(url: &str) -> Result<String, SourceError> {
    if url.chars().any(char::is_control) {
        return Err(SourceError::Wrong("an address has no line breaks or other control characters".into()));
    }
    let options = if url.to_ascii_lowercase().starts_with("rtsp") {
        format!("option rtsp_transport tcp\noption timeout {PATIENCE}\n")
    } else if url.to_ascii_lowercase().starts_with("http") {
        format!("option rw_timeout {PATIENCE}\n")
    } else {
        String::new()
    };
    Ok(format!("ffconcat version 1.0\nfile '{}'\n{options}", url.replace('\'', "'\\''")))
}

fn command() -> Command {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-hide_banner", "-loglevel", "error"]);
    command
}

/// Starts the program and reads its pictures, which are not compressed and not lost. Where it gives nothing for as long as
/// `silence` while it is read, it is ended. `redact` takes secrets out of what it says.
fn run(
    mut command: Command,
    input: Option<String>,
    silence: Duration,
    feed: &mut Feed,
    redact: &dyn Fn(&str) -> String,
) -> Result<End, SourceError> {
    command.args(["-an", "-sn", "-dn", "-fps_mode", "passthrough"]);
    command.args(["-f", "image2pipe", "-c:v", "bmp", "-pix_fmt", "bgr24", "pipe:1"]);
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    // Ctrl-C is for us: we end the program.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command.spawn().map_err(missing)?;
    if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
        // What does not arrive is said by the program's own error.
        let _ = stdin.write_all(text.as_bytes());
    }
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let said = std::thread::spawn(move || stderr.map(last_lines).unwrap_or_default());
    let child = Arc::new(Mutex::new(Running(child)));
    feed.on_close({
        let child = child.clone();
        move || child.lock().unwrap_or_else(PoisonError::into_inner).kill()
    });
    let watch = Watch::start(child.clone(), silence);
    let result = stdout.map_or(Ok(End::Cut), |stdout| {
        feed.pictures(BufReader::with_capacity(
            1 << 20,
            Watched { inner: stdout, since: watch.since.clone() },
        ))
    });
    if watch.end() {
        return Err(SourceError::Failed(format!("ffmpeg gave nothing for {} s", silence.as_secs())));
    }
    let result = match result {
        Ok(End::Cut) => {
            let status =
                child.lock().unwrap_or_else(PoisonError::into_inner).0.wait().map_err(SourceError::failed)?;
            let said = said.join().unwrap_or_default();
            let text = redact(&said.join("; "));
            if status.success() { Ok(End::Cut) } else { Err(SourceError::Failed(format!("ffmpeg: {text}"))) }
        }
        other => other,
    };
    child.lock().unwrap_or_else(PoisonError::into_inner).kill();
    result
}

fn missing(error: std::io::Error) -> SourceError {
    if error.kind() == ErrorKind::NotFound {
        return SourceError::Failed(
            "videos, cameras and RTSP are read by the program ffmpeg, which is not installed or not in PATH (Debian: apt \
             install ffmpeg)"
                .into(),
        );
    }
    SourceError::Failed(format!("ffmpeg does not start: {error}"))
}

/// Since when somebody waits for the program to give something.
type Since = Arc<Mutex<Option<Instant>>>;

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a program gives, and since when it is waited for.
struct Watched<R> {
    inner: R,
    since: Since,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        *lock(&self.since) = Some(Instant::now());
        let read = self.inner.read(buffer);
        *lock(&self.since) = None;
        read
    }
}

/// Ends a program that is silent for too long.
struct Watch {
    since: Since,
    over: Arc<AtomicBool>,
    thread: JoinHandle<bool>,
}

impl Watch {
    fn start(child: Arc<Mutex<Running>>, silence: Duration) -> Watch {
        let (since, over) = (Since::default(), Arc::new(AtomicBool::new(false)));
        let thread = std::thread::spawn({
            let (since, over) = (since.clone(), over.clone());
            move || {
                while !over.load(Ordering::Relaxed) {
                    std::thread::park_timeout(silence.min(Duration::from_secs(60)) / 8);
                    if lock(&since).is_some_and(|since| since.elapsed() > silence) {
                        lock(&child).kill();
                        return true;
                    }
                }
                false
            }
        });
        Watch { since, over, thread }
    }

    /// Stops watching; whether the program was ended.
    fn end(self) -> bool {
        self.over.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        self.thread.join().unwrap_or(false)
    }
}

/// A program that does not outlive its owner.
struct Running(Child);

impl Running {
    fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last lines of what the program says. All of it is read, so that the program never waits for a reader.
fn last_lines(stderr: ChildStderr) -> Vec<String> {
    let (mut reader, mut lines) = (BufReader::new(stderr), VecDeque::new());
    loop {
        let mut line = Vec::new();
        match reader.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return lines.into(),
            Ok(_) => {}
        }
        let line = String::from_utf8_lossy(&line).trim().to_owned();
        if !line.is_empty() {
            lines.push_back(line);
        }
        if lines.len() > LINES {
            lines.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_file_of_a_list() {
        let text = list("rtsp://me:it's@host/1").unwrap();
        assert!(text.contains("\nfile 'rtsp://me:it'\\''s@host/1'\noption rtsp_transport tcp\n"), "{text}");
        assert!(list("http://host/\nfile '/etc/passwd'").is_err());
    }

    #[cfg(unix)]
    #[test]
    fn a_program_that_is_silent_is_ended() {
        let running = |script: &str| {
            let child = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
            let child = Arc::new(Mutex::new(Running(child)));
            let stdout = lock(&child).0.stdout.take().unwrap();
            let watch = Watch::start(child.clone(), Duration::from_millis(300));
            let (mut watched, mut text) =
                (Watched { inner: stdout, since: watch.since.clone() }, String::new());
            watched.read_to_string(&mut text).unwrap();
            (text, watch.end())
        };
        assert_eq!(running("echo first; exec sleep 60"), ("first\n".into(), true));
        assert_eq!(running("echo a; sleep 0.1; echo b; sleep 0.1; echo c"), ("a\nb\nc\n".into(), false));
    }
}
