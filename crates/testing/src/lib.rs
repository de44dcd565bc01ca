//! What tests of several crates share: where the larger data sets are, which tests are heavy, and how a test says that
//! it did not look.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

/// The data set `name`: in the folder `ESPALIER_DATA`, or, where that is not set, in `shared/data` beside the
/// repository. Where it is missing, the test says that it skipped, and `None` comes back.
pub fn data(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("ESPALIER_DATA").map(PathBuf::from).or_else(|| {
        // Tests run in the folder of their package.
        let here = std::env::current_dir().ok()?;
        here.ancestors().map(|folder| folder.join("../shared/data")).find(|folder| folder.is_dir())
    });
    let found = root.map(|root| root.join(name)).filter(|set| set.is_dir());
    if found.is_none() {
        skip(&format!("{name} is neither in ESPALIER_DATA nor in ../shared/data"));
    }
    found
}

/// Whether heavy tests run (`ESPALIER_HEAVY=1`). Where they do not, the test says that it skipped `what`.
pub fn heavy(what: &str) -> bool {
    wanted("ESPALIER_HEAVY", what)
}

/// Whether tests run that take ten minutes each (`ESPALIER_SOAK=1`), too long for every change. Where they do not, the test says
/// that it skipped `what`.
pub fn soak(what: &str) -> bool {
    wanted("ESPALIER_SOAK", what)
}

fn wanted(variable: &str, what: &str) -> bool {
    let is_wanted = std::env::var(variable).is_ok_and(|value| value == "1");
    if !is_wanted {
        skip(&format!("{what} ({variable}=1 runs it)"));
    }
    is_wanted
}

/// The Python that `ESPALIER_PYTHON` names, which has to have the package `package`. Where none is named, the test says
/// that it skipped, and `None` comes back.
///
/// # Panics
/// Where one is named that lacks the package.
pub fn python(package: &str) -> Option<String> {
    let python = std::env::var("ESPALIER_PYTHON").ok().filter(|path| !path.is_empty());
    let Some(python) = python else {
        skip(&format!("ESPALIER_PYTHON names no Python with the package {package}"));
        return None;
    };
    let found = Command::new(&python).args(["-c", &format!("import {package}")]).output();
    let found = found.unwrap_or_else(|e| panic!("ESPALIER_PYTHON={python}: {e}"));
    assert!(found.status.success(), "{python} lacks {package}: {}", String::from_utf8_lossy(&found.stderr));
    Some(python)
}

/// The folder of ONNX Runtime's library in the Python that `ESPALIER_PYTHON` names. Where none is named, the test says that it
/// skipped, and `None` comes back.
///
/// # Panics
/// Where one is named that lacks the package.
pub fn onnxruntime() -> Option<PathBuf> {
    let python = python("onnxruntime")?;
    let code = "import onnxruntime, pathlib; print(pathlib.Path(onnxruntime.__file__).parent / 'capi')";
    let output = Command::new(python).args(["-c", code]).output().expect("it ran before");
    Some(PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim()))
}

/// Whether the program `ffmpeg` is there. Where it is not, the test says that it skipped `what`.
pub fn ffmpeg(what: &str) -> bool {
    let found = Command::new("ffmpeg").arg("-version").output().is_ok_and(|output| output.status.success());
    if !found {
        skip(&format!("{what} (ffmpeg is not installed)"));
    }
    found
}

/// Says on the process's own stderr, which the test harness does not swallow, that the running test skips something.
/// `.ci/run` counts these lines.
pub fn skip(why: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    // A closed stderr is no reason to fail.
    let _ = writeln!(std::io::stderr(), "skipped: {test}: {why}");
}

#[cfg(test)]
mod tests {
    use super::Command;

    /// The harness shows nothing of a test that passes; this line has to come through.
    #[test]
    fn a_skip_is_seen_though_the_test_passes() {
        let tests = std::env::current_exe().unwrap();
        let output = Command::new(tests).args(["--exact", "tests::skips"]).env("SKIP", "1").output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && text.contains("skipped: tests::skips: as an example"), "{text}");
    }

    #[test]
    fn skips() {
        if std::env::var_os("SKIP").is_some() {
            super::skip("as an example");
        }
    }
}
