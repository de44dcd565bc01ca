//! Energy meters, on sysfs trees of several machines, and what runs cost by them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use espalier_graph::{Bindings, Graph, Op, Shape, TensorType, Window};
use espalier_runtime::energy::{Energy, Meter, Spent};
use espalier_runtime::{Isa, Options, Plan, Pool, Repeat, lower};
use tempfile::TempDir;

/// A machine's tree, in a folder of its own, with some files changed; one that says nothing is not there, and one that says
/// `<folder>` cannot be read.
fn machine(name: &str, changes: &[(&str, &str)]) -> TempDir {
    let folder = TempDir::new().unwrap();
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/sysfs/{name}.txt"));
    let list = fs::read_to_string(&list).unwrap_or_else(|e| panic!("{}: {e}", list.display()));
    let files = list.lines().map(|line| line.split_once(' ').expect("a path and what it says"));
    for (path, text) in files.chain(changes.iter().copied()) {
        put(&folder.path().join(path), text);
    }
    folder
}

fn put(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    match text {
        "" => fs::remove_file(path).unwrap(),
        "<folder>" => {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        }
        text => fs::write(path, format!("{text}\n")).unwrap(),
    }
}

const RAPL0: &str = "class/powercap/intel-rapl:0/energy_uj";
const RAPL1: &str = "class/powercap/intel-rapl:1/energy_uj";

/// The meter of a machine is the one called so, and what it counts between two states of the tree is `joules`.
fn check_counter(name: &str, meter: &str, changes: &[(&str, &str)], joules: f64) {
    let folder = machine(name, &[]);
    let found = Meter::find(folder.path()).unwrap();
    assert_eq!(found.name(), meter, "{name}");
    let before = found.read().unwrap();
    changes.iter().for_each(|(path, text)| put(&folder.path().join(path), text));
    let got = found.joules(&before, &found.read().unwrap()).unwrap();
    assert!((got - joules).abs() < 1e-9, "{name}: {got} J, not {joules}");
}

#[test]
fn counters_are_of_packages_and_go_round() {
    check_counter("intel-laptop", "RAPL package-0", &[(RAPL0, "262143310000")], 0.01);
    // 28850 to the end of the range, one to 0, 71149 beyond.
    check_counter("intel-laptop", "RAPL package-0", &[(RAPL0, "71149")], 0.1);
    let both = [(RAPL0, "65000500000"), (RAPL1, "550000")];
    check_counter("amd-server", "RAPL package-0, package-1", &both, 0.75);
    let parts =
        [("class/hwmon/hwmon2/energy1_input", "1500000"), ("class/hwmon/hwmon2/energy3_input", "11000000")];
    check_counter("amd-energy", "hwmon amd_energy Esocket0", &parts, 2.0);
}

/// Energy of a power is its time integral.
fn check_power(name: &str, changes: &[(&str, &str)], meter: &str, watts: f64) {
    let folder = machine(name, changes);
    let found = Meter::find(folder.path()).unwrap();
    assert_eq!(found.name(), meter, "{name}");
    let outer = Instant::now();
    let before = found.read().unwrap();
    let inner = Instant::now();
    std::thread::sleep(Duration::from_millis(5));
    let least = inner.elapsed().as_secs_f64();
    let joules = found.joules(&before, &found.read().unwrap()).unwrap();
    let bounds = 0.999 * watts * least..=1.001 * watts * outer.elapsed().as_secs_f64();
    assert!(bounds.contains(&joules), "{name}: {joules} J is not in {bounds:?}");
}

#[test]
fn powers_are_integrated() {
    check_power("jetson", &[], "hwmon ina3221 VDD_IN", 7.6);
    check_power("board-with-ina", &[], "hwmon ina219", 3.57);
    check_power("laptop-on-battery", &[], "battery BAT0", 10.0);
    let direct = [("class/power_supply/BAT0/power_now", "9500000")];
    check_power("laptop-on-battery", &direct, "battery BAT0", 9.5);
    // What root alone may read is passed over.
    let on_battery = [(RAPL0, "<folder>"), ("class/power_supply/BAT0/status", "Discharging")];
    let power = ("class/power_supply/BAT0/power_now", "6000000");
    check_power("intel-laptop", &[on_battery[0], on_battery[1], power], "battery BAT0", 6.0);
}

fn check_none(name: &str, changes: &[(&str, &str)], want: &[&str]) {
    let reason = Meter::find(machine(name, changes).path()).expect_err(name);
    for want in want {
        assert!(reason.contains(want), "{name} {changes:?}: {reason:?} should say {want:?}");
    }
}

#[test]
fn no_meter_has_a_reason() {
    check_none("nothing", &[], &["no RAPL", "no battery"]);
    assert!(Meter::find(Path::new("/nowhere")).is_err());
    check_none("intel-laptop", &[(RAPL0, "<folder>")], &[RAPL0, "cannot be read", "says \"Full\""]);
    check_none("amd-server", &[(RAPL1, "many")], &[RAPL1, "says \"many\"", "whole number"]);
    check_none("amd-server", &[(RAPL0, "-5")], &[RAPL0, "says \"-5\""]);
    check_none("amd-server", &[(RAPL0, "99999999999")], &[RAPL0, "beyond its range of 65532610987"]);
    let range = "class/powercap/intel-rapl:0/max_energy_range_uj";
    check_none("amd-server", &[(range, "")], &[range, "cannot be read"]);
    let label = "class/hwmon/hwmon3/in1_label";
    check_none("jetson", &[(label, "VDD_X")], &["3 channels", "no label says which measures the whole"]);
    check_none("jetson", &[("class/hwmon/hwmon3/curr1_input", "")], &["curr1_input cannot be read"]);
    let voltage = "class/power_supply/BAT0/voltage_now";
    check_none("laptop-on-battery", &[(voltage, "")], &[voltage, "cannot be read"]);
}

/// What was a meter a moment ago need not be one now.
fn check_lost(name: &str, change: (&str, &str), want: &str) {
    let folder = machine(name, &[]);
    let meter = Meter::find(folder.path()).unwrap();
    let before = meter.read().unwrap();
    put(&folder.path().join(change.0), change.1);
    let after = meter.read().and_then(|after| meter.joules(&before, &after));
    let error = after.expect_err(name).to_string();
    assert!(error.contains(want), "{error:?} should say {want:?}");
}

#[test]
fn meters_can_be_lost() {
    check_lost("amd-server", (RAPL1, ""), "intel-rapl:1/energy_uj cannot be read");
    check_lost("amd-server", (RAPL1, "12 34"), "says \"12 34\"");
    check_lost("amd-energy", ("class/hwmon/hwmon2/energy3_input", "8999999"), "went back from 9000000");
    check_lost(
        "laptop-on-battery",
        ("class/power_supply/BAT0/status", "Charging"),
        "no longer says Discharging",
    );
}

/// A plan with work for about a tenth of a millisecond.
fn plan() -> Plan {
    let mut graph = Graph::new();
    let x = graph.add_input("x", TensorType::f32(Shape::batched(&[3, 64, 64]))).unwrap();
    let max = graph.add("max", Op::MaxPool { window: Window::square(5, 1, 2) }, &[x]).unwrap();
    graph.add_output("max", max).unwrap();
    let options = Options { isa: Isa::best(), threads: 1, bindings: Bindings::batch(1) };
    lower(&graph, &Default::default(), options).unwrap()
}

/// Adds 1 mJ in every millisecond to a counter, 1 W, while `work` is done.
fn drawing_a_watt<T>(path: PathBuf, work: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let start = Instant::now();
            while !done.load(Ordering::Relaxed) {
                // In one step, as a reader of sysfs sees it.
                let next = path.with_extension("next");
                fs::write(&next, (65_000_000_000 + start.elapsed().as_micros()).to_string()).unwrap();
                fs::rename(&next, &path).unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        result
    })
}

#[test]
fn runs_are_charged() {
    let folder = machine("amd-server", &[]);
    let mut energy = Energy::at(folder.path(), Some(6.0));
    let ([mut one, mut two], mut pool) = ([plan(), plan()], Pool::new(1));
    let (mut one, mut two) = (Repeat::new(&mut one), Repeat::new(&mut two));
    let start = Instant::now();
    let spent = drawing_a_watt(folder.path().join(RAPL0), || energy.per_run([&mut one, &mut two], &mut pool));
    let all = 1e3 * start.elapsed().as_secs_f64();
    assert_eq!(energy.meter(), Ok("RAPL package-0, package-1"));
    for Spent { measured_mj, estimate_mj } in spent {
        let (measured, estimate) = (measured_mj.unwrap(), estimate_mj.unwrap());
        assert!(measured > 0.0 && measured < all / 30.0, "{measured} mJ of at most {all}");
        assert!(estimate > 0.0 && estimate < 6.0 * all / 30.0, "{estimate} mJ of at most {all}");
    }
}

#[test]
fn nothing_is_made_up() {
    let (mut plan, mut pool) = (plan(), Pool::new(1));
    let mut plan = Repeat::new(&mut plan);
    let mut check = |name: &str, watts, is_estimated: bool, want: &str| {
        let folder = machine(name, &[]);
        let mut energy = Energy::at(folder.path(), watts);
        let [spent] = energy.per_run([&mut plan], &mut pool);
        assert_eq!((spent.measured_mj, spent.estimate_mj.is_some()), (None, is_estimated), "{name}");
        assert!(energy.to_string().contains(want), "{energy} should say {want:?}");
        assert!(energy.meter().is_err(), "{name}");
    };
    check("nothing", None, false, "not measured: it has no RAPL");
    check("nothing", Some(6.0), true, "estimated from CPU seconds, at 6 W");
    // A counter of a virtual machine, perhaps.
    check("amd-server", None, false, "stands still");
    check("amd-server", Some(6.0), true, "stands still");
}
