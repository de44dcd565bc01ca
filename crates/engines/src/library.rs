//! Finding and loading ONNX Runtime's library. A process holds one.

use std::ffi::{CStr, OsStr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::sys::OrtApiBase;

use crate::error::OpenError;

/// Names the library where no configuration does.
const VARIABLE: &str = "ORT_DYLIB_PATH";

/// What systems call it, the unversioned name first: that one is the user's choice.
const NAMES: &[&str] = if cfg!(target_os = "windows") {
    &["onnxruntime.dll"]
} else if cfg!(target_vendor = "apple") {
    &["libonnxruntime.dylib"]
} else {
    &["libonnxruntime.so", "libonnxruntime.so.1"]
};

/// The library of this process.
#[derive(Clone)]
pub(crate) struct Library {
    pub(crate) environment: Environment,
    /// Where it came from: a path, or a name that the system's loader knows.
    pub(crate) path: PathBuf,
    /// What it says of itself: `1.32.0`.
    pub(crate) version: String,
}

static LOADED: Mutex<Option<Library>> = Mutex::new(None);

/// What the library complained of outside of sessions, the last few: why a provider does not start is said nowhere else.
static COMPLAINTS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Most complaints that are kept, and most characters of one: C++ puts the reason at the end.
const COMPLAINTS_MAX: usize = 4;
const COMPLAINT_LENGTH_MAX: usize = 300;

/// What the library complained of since this was last asked.
pub(crate) fn complaints() -> Vec<String> {
    std::mem::take(&mut *COMPLAINTS.lock().unwrap_or_else(PoisonError::into_inner))
}

fn complain(message: &str) {
    let message = message.trim();
    let from = message.char_indices().rev().nth(COMPLAINT_LENGTH_MAX - 1).map_or(0, |(at, _)| at);
    let mut complaints = COMPLAINTS.lock().unwrap_or_else(PoisonError::into_inner);
    if complaints.len() == COMPLAINTS_MAX {
        complaints.remove(0);
    }
    complaints.push(message[from..].to_owned());
}

impl std::fmt::Display for Library {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ONNX Runtime {} ({})", self.version, self.path.display())
    }
}

impl Library {
    /// The library at `given`, else the one that the environment names, else the system's; the one that is loaded already
    /// where nothing names another.
    pub(crate) fn load(given: Option<&Path>) -> Result<Library, OpenError> {
        let named = given
            .map(Path::to_path_buf)
            .or_else(|| std::env::var_os(VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from));
        let named = named.map(|path| found(&path)).transpose()?;
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(library) = &*loaded {
            return match named {
                Some(wanted) if wanted != library.path => {
                    Err(OpenError::Second { loaded: library.path.clone(), wanted })
                }
                _ => Ok(library.clone()),
            };
        }
        let candidates = named.map_or_else(usual, |path| vec![path]);
        let library = first(&candidates)?;
        Ok(loaded.insert(library).clone())
    }
}

/// Where the library is if nothing names it: beside the program, else where the system looks.
fn usual() -> Vec<PathBuf> {
    let program = std::env::current_exe().ok();
    let folder = program.as_deref().and_then(Path::parent);
    let beside = |name| folder.map(|folder| folder.join(name)).filter(|path| path.is_file());
    NAMES.iter().map(|name| beside(name).unwrap_or_else(|| PathBuf::from(name))).collect()
}

/// The file that a path stands for: itself, or the library in that folder.
fn found(path: &Path) -> Result<PathBuf, OpenError> {
    let missing = |why: String| OpenError::Missing(vec![(path.display().to_string(), why)]);
    let path = path.canonicalize().map_err(|e| missing(e.to_string()))?;
    if !path.is_dir() {
        return Ok(path);
    }
    let files = path.read_dir().map_err(|e| missing(e.to_string()))?;
    let files = files.filter_map(Result::ok).map(|entry| entry.path());
    // Releases have names with versions, like libonnxruntime.so.1.32.0.
    let is_library = |name: &OsStr| NAMES.iter().any(|known| name.to_string_lossy().starts_with(known));
    let mut libraries: Vec<PathBuf> = files.filter(|file| file.file_name().is_some_and(is_library)).collect();
    libraries.sort();
    let library = libraries.into_iter().next();
    library.ok_or_else(|| missing(format!("no {} is in that folder", NAMES[0])))
}

/// The first candidate that is a library; one that is too old ends the search.
fn first(candidates: &[PathBuf]) -> Result<Library, OpenError> {
    let mut tried = Vec::new();
    for path in candidates {
        let version = match version(path) {
            Ok(version) => version,
            Err(why) => {
                tried.push((path.display().to_string(), why));
                continue;
            }
        };
        let least = ort::MINOR_VERSION;
        if !serves(&version, least) {
            return Err(OpenError::TooOld { path: path.clone(), version, least });
        }
        match environment(path) {
            Ok(environment) => return Ok(Library { environment, path: path.clone(), version }),
            Err(why) => tried.push((path.display().to_string(), why)),
        }
    }
    Err(OpenError::Missing(tried))
}

fn environment(path: &Path) -> Result<Environment, String> {
    let builder =
        ort::init_from(path).map_err(|e| e.to_string())?.with_name("espalier").with_telemetry(false);
    let logger = |level, _: &str, _: &str, _: &str, message: &str| {
        if level >= LogLevel::Error {
            complain(message);
        }
    };
    let environment = builder.with_logger(Arc::new(logger)).build().map_err(|e| e.to_string())?;
    environment.set_log_level(LogLevel::Error);
    Ok(environment)
}

/// Whether a version is 1.`least` or newer.
fn serves(version: &str, least: u32) -> bool {
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(1), Some(minor)) => minor >= least,
        (Some(major), Some(_)) => major > 1,
        _ => false,
    }
}

/// What the library at `path` says its version is.
fn version(path: &Path) -> Result<String, String> {
    // SAFETY: loading a library runs its initialisers. It is the one that the user, the user's environment or the system calls
    // ONNX Runtime.
    let library = unsafe { libloading::Library::new(path) }.map_err(|e| reason(&e))?;
    // SAFETY: every version of ONNX Runtime exports the function with this type (onnxruntime_c_api.h).
    let base = unsafe { library.get::<unsafe extern "C" fn() -> *const OrtApiBase>(b"OrtGetApiBase") };
    let base = base.map_err(|_| "it is no ONNX Runtime: it has no function OrtGetApiBase".to_owned())?;
    // SAFETY: the function takes nothing, and what it points to lives as long as the library, which is open here. The first
    // two functions behind the pointer are the same in every version.
    let text = unsafe { base().as_ref().map(|base| CStr::from_ptr((base.GetVersionString)())) };
    let text = text.ok_or("it is no ONNX Runtime: OrtGetApiBase gives nothing")?;
    Ok(text.to_string_lossy().into_owned())
}

/// What the system's loader says, which stands behind the error.
fn reason(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_last_complaints_is_kept() {
        complaints();
        (0..9).for_each(|number| complain(&format!("{}{number}\n", "é".repeat(400))));
        let kept = complaints();
        assert_eq!(kept.len(), COMPLAINTS_MAX);
        assert!(kept[3].ends_with("é8") && kept[3].chars().count() == COMPLAINT_LENGTH_MAX, "{kept:?}");
        assert!(complaints().is_empty());
    }

    #[test]
    fn versions_that_serve() {
        for version in ["1.17.0", "1.32.0", "1.18.0-dev", "2.0.0"] {
            assert!(serves(version, 17), "{version}");
        }
        for version in ["1.16.3", "1.9.0", "0.99.0", "", "x.y"] {
            assert!(!serves(version, 17), "{version}");
        }
    }
}
