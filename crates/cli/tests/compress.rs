//! `espalier compress` through the binary, on a network that was trained on the built-in digits.

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use common::{Said, espalier, fresh, pictures, run};
use espalier_graph::{Data, Package, Tensor};
use espalier_passes::sparsify::{Blocks, sparse_layers};
use espalier_testing::heavy;
use serde_json::Value;

const DIGITS: &str = "builtin:mnist-5k";

/// A folder with a trained package and what int8 made of it; made once.
fn fixture() -> &'static Path {
    static FIXTURE: OnceLock<PathBuf> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let folder = fresh("compress");
        let flags = "--model plain6 --width 0.5 --epochs 3 --threads 2 --json";
        let said = at(&folder, &format!("train {DIGITS} --out {{}}/run {flags}"));
        assert_eq!(said.status, Some(0), "{}", said.err);
        let line = "compress {}/run/best.espalier DATA --int8 --threads 1 --out {}/small.espalier --report {}/report --json";
        let said = at(&folder, line);
        assert_eq!(said.status, Some(0), "{}", said.err);
        fs::write(folder.join("compress.json"), said.out.lines().last().unwrap()).unwrap();
        folder
    })
}

/// The words of `line`, in which {} is `folder` and DATA the digits.
fn words(folder: &Path, line: &str) -> Vec<String> {
    let words = line.split_whitespace().map(|word| match word {
        "DATA" => DIGITS.to_string(),
        word => word.replace("{}", folder.to_str().unwrap()),
    });
    words.collect()
}

/// Runs `line`.
fn at(folder: &Path, line: &str) -> Said {
    run(&words(folder, line).iter().map(String::as_str).collect::<Vec<_>>())
}

fn last_line(out: &str) -> Value {
    serde_json::from_str(out.lines().last().expect("an answer")).expect("JSON on the last line")
}

fn compressed() -> Value {
    last_line(&fs::read_to_string(fixture().join("compress.json")).unwrap())
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn int8_keeps_the_budget_and_says_what_it_did() {
    let result = compressed();
    let (before, after) = (&result["before"], &result["after"]);
    let drop = number(&before["metrics"]["accuracy"]) - number(&after["metrics"]["accuracy"]);
    assert!(drop <= 0.01, "accuracy fell by {drop}");
    assert!(number(&after["agreement"]) >= 0.98, "{after}");
    assert!(number(&after["size_bytes"]) < 0.4 * number(&before["size_bytes"]), "{before} {after}");
    assert!(number(&after["p50_ms"]) < number(&before["p50_ms"]), "{before} {after}");
    // Energy is measured by something, or not told.
    let is_measured = result["energy_meter"].is_string();
    assert!(
        [before, after].iter().all(|figures| figures["energy_mj"].is_number() == is_measured),
        "{result}"
    );
    assert!(
        before["energy_mj_estimate"].is_null() && result["energy"].as_str().unwrap().contains("measured")
    );
    let layers = result["layers"].as_array().unwrap();
    let int8 = layers.iter().filter(|layer| layer["kind"] == "int8").count();
    assert!(int8 >= 7 && layers.iter().all(|layer| layer["name"].is_string()), "{layers:?}");
    assert!(result["steps"].as_array().unwrap().len() >= 5, "{result}");
    let size = fs::metadata(fixture().join("small.espalier")).unwrap().len();
    assert_eq!(after["size_bytes"], size);
    let page = fs::read_to_string(fixture().join("report/report.html")).unwrap();
    assert!(page.contains("The budget is kept") && page.contains("ranges by min-max"));
    let stored = fs::read_to_string(fixture().join("report/result.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&stored).unwrap(), result);
}

/// What the report says is what any command measures of the file, with every instruction set.
#[test]
fn the_file_answers_as_reported() {
    let after = compressed()["after"]["metrics"].clone();
    for isa in espalier_runtime::Isa::available() {
        let said = at(fixture(), &format!("val {{}}/small.espalier DATA --isa {isa} --json"));
        assert_eq!(said.status, Some(0), "{}", said.err);
        assert_eq!(last_line(&said.out)["metrics"]["accuracy"], after["accuracy"], "{isa}");
    }
    let manifest = Package::read(fixture().join("small.espalier")).unwrap().manifest;
    assert_eq!(manifest.format.requires, ["int8", "reference"]);
    assert_eq!(manifest.budget.unwrap()["max_drop"], 0.01);
    assert_eq!(number(&after["accuracy"]), manifest.metrics["accuracy"]);
    let lineage = [manifest.lineage.parent, manifest.lineage.dataset, manifest.lineage.settings];
    assert!(lineage.iter().all(|digest| digest.as_ref().is_some_and(|d| d.len() == 64)), "{lineage:?}");
}

#[test]
fn the_same_recipe_gives_the_same_file() {
    let line =
        "compress {}/run/best.espalier DATA --int8 --threads 1 --out {}/again.espalier --report {}/again";
    let said = at(fixture(), line);
    assert_eq!(said.status, Some(0), "{}", said.err);
    let [one, two] = ["small", "again"].map(|n| fs::read(fixture().join(format!("{n}.espalier"))).unwrap());
    assert!(one == two, "two runs of one compression differ");
    assert!(said.out.contains("int8") && said.out.contains("report: "), "{}", said.out);
}

#[test]
fn an_impossible_budget_writes_no_package() {
    for (budget, reason) in
        [("--max-size 1KB", "at most 1000 are allowed"), ("--int8 --max-latency 1us", "ms are allowed")]
    {
        let line = format!(
            "compress {{}}/run/best.espalier DATA {budget} --out {{}}/no.espalier --report {{}}/no --json"
        );
        let said = at(fixture(), &line);
        assert_eq!(said.status, Some(3), "{}", said.err);
        let result = last_line(&said.out);
        assert!(result["reason"].as_str().unwrap().contains(reason), "{result}");
        assert!(
            result["nearest"]["metrics"]["accuracy"].is_number() && result["after"].is_null(),
            "{result}"
        );
        assert!(said.err.contains("nothing keeps the budget"), "{}", said.err);
        assert!(!fixture().join("no.espalier").exists(), "{budget} wrote a package");
        assert!(
            fs::read_to_string(fixture().join("no/report.html")).unwrap().contains("no package was written")
        );
    }
}

/// Without a meter only an estimate can decide, and only where the watts are known.
#[test]
fn a_budget_of_energy_is_judged_by_something() {
    let line = |watts| {
        let budget = "--int8 --max-energy 1uJ --threads 1 --max-time 1s --json";
        format!(
            "compress {{}}/run/best.espalier DATA {budget} {watts} --out {{}}/e.espalier --report {{}}/energy"
        )
    };
    let has_meter = compressed()["energy_meter"].is_string();
    let said = at(fixture(), &line(""));
    assert_eq!(said.status, Some(if has_meter { 3 } else { 2 }), "{}", said.err);
    assert!(
        has_meter || said.err.contains("no energy meter: ") && said.err.contains("--watts W"),
        "{}",
        said.err
    );
    let said = at(fixture(), &line("--watts 6"));
    assert_eq!(said.status, Some(3), "{}", said.err);
    let result = last_line(&said.out);
    let by = if has_meter { "mJ, at most 0.001 mJ" } else { "mJ by estimate, at most 0.001 mJ" };
    assert!(result["reason"].as_str().unwrap().contains(by), "{result}");
    let [float, int8] = ["before", "nearest"].map(|key| number(&result[key]["energy_mj_estimate"]));
    assert!(0.0 < int8 && int8 < float, "{result}");
    assert!(has_meter || result["energy"].as_str().unwrap().contains("at 6 W"), "{result}");
}

/// Without `--int8` the float network is an answer, and the file then is one that `compress` could take again.
#[test]
fn without_int8_something_always_keeps_the_accuracy() {
    let line = "compress {}/run/best.espalier DATA --max-drop 0 --max-time 1s --out {}/any.espalier --report {}/any --json";
    let said = at(fixture(), line);
    assert_eq!(said.status, Some(0), "{}", said.err);
    let result = last_line(&said.out);
    let [before, after] = ["before", "after"].map(|key| number(&result[key]["metrics"]["accuracy"]));
    assert!(after >= before, "{result}");
}

#[test]
fn an_altered_golden_sample_refuses_the_package() {
    let mut package = Package::read(fixture().join("small.espalier")).unwrap();
    let Data::F32(values) = &mut package.golden[0].outputs[0].data else { panic!("logits are floats") };
    values[0] += 1.0;
    let path = fixture().join("altered.espalier");
    package.write(&path).unwrap();
    let said = at(fixture(), "val {}/altered.espalier DATA");
    assert_eq!(said.status, Some(1), "{}", said.out);
    assert!(said.err.contains("golden sample 0") && said.err.contains("refused"), "{}", said.err);
}

/// A network whose last channels differ a thousandfold, which no int8 of a whole value can hold and nothing equalises across
/// the mean: the head stays float, and the report says so.
#[test]
fn the_layer_that_harms_stays_float() {
    let mut package = Package::read(fixture().join("run/best.espalier")).unwrap();
    let mut scale = |name: &str, every: usize, factor: f32| {
        let tensor = package.weights.get_mut(name).unwrap();
        let scaled = tensor.as_f32().unwrap().iter().enumerate();
        let scaled = scaled.map(|(i, v)| if i % every == 0 { v * factor } else { *v }).collect();
        *tensor = Tensor::f32(&tensor.shape, scaled);
    };
    for name in ["16.weight", "16.bias"] {
        scale(name, usize::MAX, 1000.0);
    }
    scale("20.weight", 128, 0.001);
    package.golden.clear();
    package.write(fixture().join("uneven.espalier")).unwrap();
    let line = "compress {}/uneven.espalier DATA --int8 --threads 1 --out {}/mixed.espalier --report {}/mixed --json";
    let said = at(fixture(), line);
    assert_eq!(said.status, Some(0), "{}", said.err);
    let result = last_line(&said.out);
    let [before, after] = ["before", "after"].map(|key| number(&result[key]["metrics"]["accuracy"]));
    assert!(after >= before - 0.01, "{result}");
    let layers = result["layers"].as_array().unwrap();
    let floats: Vec<&Value> = layers.iter().filter(|layer| layer["kind"] == "f32").collect();
    let head = floats.iter().find(|layer| layer["name"] == "20.product").expect("the head is float");
    assert!(head["reason"].as_str().unwrap().starts_with("in float it lowers the error"), "{head}");
    assert!(layers.iter().filter(|layer| layer["kind"] == "int8").count() >= 4, "{layers:?}");
    let whole = &result["candidates"][1];
    assert!(whole["refused"].as_str().unwrap().contains("accuracy falls by"), "{whole}");
}

fn check_refused(line: &str, status: i32, want: &str) {
    let said = at(fixture(), &format!("compress {line} --report {{}}/refused"));
    assert_eq!(said.status, Some(status), "{line}: {}", said.err);
    let last = said.err.lines().last().unwrap_or("");
    assert!(said.err.contains(want), "{line}: {last:?} should say {want:?}");
    assert!(!fixture().join("refused").exists(), "{line} wrote a report");
}

#[test]
fn wrong_uses_are_refused() {
    let folder = fixture();
    pictures(&folder.join("strangers/train"), "left", 4);
    pictures(&folder.join("strangers/val"), "left", 4);
    pictures(&folder.join("unlabelled/val"), "left", 4);
    let package = Package::read(folder.join("run/best.espalier")).unwrap();
    let mut raw = Package { golden: Vec::new(), ..package.clone() };
    raw.manifest.task = None;
    raw.write(folder.join("raw.espalier")).unwrap();
    let float = "{}/run/best.espalier";
    for (line, status, want) in [
        ("{}/small.espalier DATA --out {}/o.espalier", 1, "it is quantized already"),
        ("{}/raw.espalier DATA --out {}/o.espalier", 1, "the package has no task"),
        ("{}/none.espalier DATA --out {}/o.espalier", 2, "does not exist"),
        ("FLOAT {}/strangers --out {}/o.espalier", 1, "class \"left\""),
        ("FLOAT {}/unlabelled --out {}/o.espalier", 2, "no train split"),
        ("FLOAT {}/nowhere --out {}/o.espalier", 2, "does not exist"),
        ("FLOAT DATA --out {}/run/best.espalier", 2, "that is the package itself"),
        ("FLOAT DATA --out {}/no/folder/o.espalier", 2, "a folder that exists"),
        ("FLOAT DATA --out {}/o.espalier --max-size huge", 2, "--max-size huge: it should be like 200KB"),
        ("FLOAT DATA --out {}/o.espalier --max-latency fast", 2, "--max-latency fast: it should be like"),
        ("FLOAT DATA --out {}/o.espalier --max-drop -1", 2, "--max-drop"),
        ("FLOAT DATA --out {}/o.espalier --max-energy 5W", 2, "--max-energy 5W: it should be like 5mJ"),
        ("FLOAT DATA --out {}/o.espalier --watts -6", 2, "--watts"),
        ("FLOAT DATA --out {}/o.espalier --watts 0", 2, "--watts 0: it should be what one busy core draws"),
        ("FLOAT DATA --out {}/o.espalier --isa abacus", 2, "--isa"),
        (
            "FLOAT DATA --out {}/o.espalier --prune 1.5",
            2,
            "--prune 1.5: it should be a share from 0.01 to 0.95",
        ),
        ("FLOAT DATA --out {}/o.espalier --sparsity 0.75", 2, "so it goes with --int8"),
        ("FLOAT DATA", 2, "--out"),
    ] {
        check_refused(&line.replace("FLOAT", float), status, want);
    }
}

/// The JSON of `compress` on the fixture with `flags`, which is to keep its budget; written to `name`.espalier.
fn made(name: &str, flags: &str) -> Value {
    let line = format!(
        "compress {{}}/run/best.espalier DATA {flags} --max-drop 0.2 --threads 1 --out {{}}/{name}.espalier \
         --report {{}}/{name} --json"
    );
    let said = at(fixture(), &line);
    assert_eq!(said.status, Some(0), "{flags}: {}", said.err);
    last_line(&said.out)
}

/// How long the step called `step` took, in seconds.
fn seconds(result: &Value, step: &str) -> f64 {
    let steps = result["steps"].as_array().unwrap();
    number(&steps.iter().find(|found| found["step"] == step).expect(step)["seconds"])
}

#[test]
fn pruned_networks_are_smaller_and_resume_trains_nothing_again() {
    let result = made("pruned", "--prune 0.5 --max-time 30s");
    let (before, after) = (&result["before"], &result["after"]);
    assert!(number(&after["size_bytes"]) < 0.7 * number(&before["size_bytes"]), "{result}");
    assert!(number(&after["p50_ms"]) < number(&before["p50_ms"]), "{result}");
    let layers = result["layers"].as_array().unwrap();
    let fewer = |layer: &&Value| number(&layer["outputs"][0]) < number(&layer["outputs"][1]);
    assert!(
        layers.iter().filter(|layer| layer["outputs"].is_array()).filter(fewer).count() >= 3,
        "{layers:?}"
    );
    let file = fs::read(fixture().join("pruned.espalier")).unwrap();
    let resumed = made("pruned", "--prune 0.5 --max-time 30s --resume");
    assert!(seconds(&resumed, "train") < 0.2 * seconds(&result, "train"), "{resumed}");
    assert!(
        file == fs::read(fixture().join("pruned.espalier")).unwrap(),
        "what was resumed is something else"
    );
}

/// Whether it says that it looks for speed.
fn looked(result: &Value) -> bool {
    result["steps"].as_array().unwrap().iter().any(|step| step["step"] == "search")
}

#[test]
fn where_nothing_says_how_fast_it_looks_for_three_times_the_speed_of_float() {
    assert!(!looked(&compressed()), "--int8 is content with int8");
    assert!(!looked(&made("told", "--max-latency 1s")), "that is fast enough");
    if !heavy("lessons of pruning until a network is fast") {
        return;
    }
    let result = made("fast", "");
    let float = number(&result["before"]["p50_ms"]);
    let candidates = result["candidates"].as_array().unwrap();
    let timed = |what: &str| {
        let of_it = candidates.iter().filter(|c| c["name"].as_str().unwrap().contains(what));
        of_it.filter_map(|c| c["p50_ms"].as_f64()).fold(f64::INFINITY, f64::min)
    };
    let gain = float / candidates.iter().skip(1).find_map(|c| c["p50_ms"].as_f64()).expect("int8 was timed");
    assert_eq!(looked(&result), gain < 3.0, "int8 gains {gain}: {result}");
    if looked(&result) {
        assert!(timed("pruned") < float / gain, "{result}");
    }
}

/// Int8 kept the budget when something faster was looked for: that is the answer, in good order.
#[test]
fn a_search_that_is_stopped_writes_what_it_found() {
    let line = "compress {}/run/best.espalier DATA --max-drop 0.2 --max-time 10m --threads 1 --out {}/stopped.espalier --report \
                {}/stopped --json";
    let args = words(fixture(), line);
    let mut search = espalier(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let mut search = search.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(search.stderr.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().starts_with("25 % of the work pruned, int8")), "it prunes");
    // Into the next lesson, as a rule.
    std::thread::sleep(Duration::from_secs(1));
    let signal = Command::new("kill").args(["-TERM", &search.id().to_string()]).status().unwrap();
    assert!(signal.success());
    let rest: Vec<String> = said.map(Result::unwrap).collect();
    let answer = search.wait_with_output().unwrap();
    assert!(answer.status.success(), "{rest:?}");
    let result = last_line(&String::from_utf8(answer.stdout).unwrap());
    let last = result["steps"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["step"], &last["result"]), (&"search".into(), &"stopped".into()), "{result}");
    assert!(Package::read(fixture().join("stopped.espalier")).is_ok());
}

/// Of two lessons the first was over when the search was killed: only the second is given again.
#[test]
fn an_interrupted_search_loses_the_current_step_at_most() {
    let line = "compress {}/run/best.espalier DATA --prune 0.4 --qat --int8 --max-drop 0.2 --max-time 30s --threads 1 --out \
                {}/interrupted.espalier --report {}/interrupted --json --resume";
    let (folder, out) = (fixture().join("interrupted/trained"), fixture().join("interrupted.espalier"));
    let kept = || fs::read_dir(&folder).map_or(0, |entries| entries.count());
    let args = words(fixture(), line);
    let mut search = espalier(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let mut search = search.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    while Package::read(folder.join("40---of-the-work-pruned.espalier")).is_err() {
        assert!(search.try_wait().unwrap().is_none(), "it ended before a network was kept: {folder:?}");
        assert!(start.elapsed() < Duration::from_secs(300), "no network is kept");
        std::thread::sleep(Duration::from_millis(20));
    }
    let first_lesson = start.elapsed().as_secs_f64();
    // Harder than Ctrl-C, which a process in the background may ignore.
    search.kill().unwrap();
    assert!(!search.wait().unwrap().success(), "it was killed");
    assert!(!out.exists() && kept() == 1, "the second lesson was not over");

    let said = at(fixture(), line);
    assert_eq!(said.status, Some(0), "{}", said.err);
    let result = last_line(&said.out);
    assert!(seconds(&result, "train") < 0.2 * first_lesson, "{result}");
    assert_eq!(kept(), 2, "the second network is kept too");
    assert!(Package::read(out).unwrap().manifest.format.requires.contains(&"int8".to_owned()), "{result}");
}

#[test]
fn sparse_networks_have_the_zeros_that_were_asked_for() {
    for (block, block_outputs) in [("2x4", 2), ("1x4", 1)] {
        let flags = format!("--sparsity 0.75 --block {block} --int8 --max-time 15s");
        let result = made(&format!("sparse-{block}"), &flags);
        let layers = result["layers"].as_array().unwrap();
        let zeros: Vec<f64> = layers.iter().filter_map(|layer| layer["zeros"].as_f64()).collect();
        assert!(zeros.len() >= 4 && zeros.iter().all(|share| (0.6..=0.9).contains(share)), "{layers:?}");
        let package = Package::read(fixture().join(format!("sparse-{block}.espalier"))).unwrap();
        let (mut zero, mut all, mut blocks_of_zeros) = (0, 0, 0);
        for id in sparse_layers(&package.graph) {
            let tensor = &package.weights[&package.graph.value(id).name];
            let Data::S8(values) = &tensor.data else { continue };
            let is_zero = |at| values[at] == 0;
            zero += (0..values.len()).filter(|&at| is_zero(at)).count();
            all += values.len();
            let blocks = Blocks::new(&tensor.shape, block_outputs);
            let of_zeros = |&block: &usize| blocks.elements(block).all(is_zero);
            blocks_of_zeros +=
                (0..blocks.count()).filter(of_zeros).map(|b| blocks.elements(b).count()).sum::<usize>();
        }
        assert!((0.74..=0.85).contains(&(zero as f64 / all as f64)), "{zero} of {all} weights are zero");
        let share = blocks_of_zeros as f64 / all as f64;
        assert!((0.74..=0.8).contains(&share), "{share} of the weights lie in {block} blocks of zeros");
    }
}

#[test]
fn a_network_is_trained_with_its_roundings() {
    let result = made("qat", "--qat --per-tensor --int8 --max-time 30s");
    let last = result["candidates"].as_array().unwrap().last().unwrap();
    assert_eq!(result["after"]["name"], last["name"]);
    assert_eq!((&last["recipe"]["trained"], &last["recipe"]["per_tensor"]), (&true.into(), &true.into()));
    let drop =
        number(&result["before"]["metrics"]["accuracy"]) - number(&result["after"]["metrics"]["accuracy"]);
    assert!(drop <= 0.01, "accuracy fell by {drop}");
}
