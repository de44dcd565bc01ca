//! `benchmark --per-layer`: each step with its kernel, and how far it is from what this machine could do; and in words
//! what of it deserves attention.

use std::time::Duration;

use espalier_kernels::peak::{self, Peak};
use espalier_runtime::{Isa, Pool, Repeat, StepInfo};
use serde_json::{Value, json};

use super::ms;

pub(super) const COLUMNS: [&str; 8] =
    ["name", "op", "kernel", "ms", "gmacs", "gmacs_per_s", "roofline_ms", "of_roofline"];

/// Where int8 has less than this many times the arithmetic of f32, it does not pay.
const PAYS: f64 = 1.5;
/// Shares of the time below this are not worth a sentence.
const NOTABLE: f64 = 0.02;

/// Adds rows `layers` and sentences `remarks` to `result`.
pub(super) fn add(result: &mut Value, plan: &mut Repeat<'_>, pool: &mut Pool, isa: Isa, runs: usize) {
    let peak = peak::measure(isa, pool.workers());
    let mut times = vec![Duration::ZERO; plan.steps().count()];
    (0..runs).for_each(|_| plan.run_profiled(pool, &mut times));
    let steps: Vec<(&StepInfo, f64)> =
        plan.steps().zip(&times).map(|(step, time)| (step, ms(*time) / runs as f64)).collect();
    result["layers"] = steps.iter().map(|(step, ms)| row(step, *ms, &peak)).collect();
    let remarks = remarks(&steps, &peak);
    if !remarks.is_empty() {
        result["remarks"] = remarks.into();
    }
}

/// The least time that arithmetic and traffic allow.
fn roofline_ms(step: &StepInfo, peak: &Peak) -> f64 {
    let rate = if step.integers { peak.int8_macs_per_second } else { peak.macs_per_second };
    1e3 * (step.macs as f64 / rate).max(step.bytes as f64 / peak.bytes_per_second)
}

fn row(step: &StepInfo, ms: f64, peak: &Peak) -> Value {
    let (gmacs, roofline) = (step.macs as f64 / 1e9, roofline_ms(step, peak));
    json!({
        "name": step.node, "op": step.op, "kernel": step.kernel, "ms": ms, "gmacs": gmacs,
        "gmacs_per_s": if step.macs == 0 { Value::Null } else { (gmacs / ms * 1e3).into() },
        "roofline_ms": roofline, "of_roofline": if ms > 0.0 { (roofline / ms).into() } else { Value::Null },
    })
}

/// What is worth knowing about a plan with integers: whether they pay on this CPU, and what does not run in them.
fn remarks(steps: &[(&StepInfo, f64)], peak: &Peak) -> Vec<String> {
    let mut remarks = Vec::new();
    if !steps.iter().any(|(step, _)| step.integers) {
        return remarks;
    }
    let gain = peak.int8_macs_per_second / peak.macs_per_second;
    if gain < PAYS {
        remarks.push(format!(
            "int8 hardly pays with these instructions: {gain:.1} times the multiply-adds of f32; a CPU with VNNI (x86) or \
             dotprod (Arm) has four times and more"
        ));
    }
    let total: f64 = steps.iter().map(|(_, ms)| ms).sum();
    let float: Vec<_> = steps.iter().filter(|(step, _)| !step.integers && step.op != "Dequantize").collect();
    let share = float.iter().map(|(_, ms)| ms).sum::<f64>() / total;
    if share >= NOTABLE {
        let mut ops: Vec<&str> = float.iter().map(|(step, _)| step.op).collect();
        ops.sort_unstable();
        ops.dedup();
        let (count, all, ops) = (float.len(), steps.len(), ops.join(", "));
        remarks.push(format!("{count} of {all} steps run in f32, {:.0} % of the time: {ops}", 100.0 * share));
    }
    let is_change = |step: &StepInfo| ["Quantize", "Dequantize", "Reorder"].contains(&step.op);
    let changes = steps.iter().filter(|(step, _)| is_change(step)).map(|(_, ms)| ms).sum::<f64>() / total;
    if changes >= 2.0 * NOTABLE {
        remarks.push(format!("{:.0} % of the time goes into changes of type and order", 100.0 * changes));
    }
    remarks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(op: &'static str, integers: bool) -> StepInfo {
        StepInfo {
            node: op.to_lowercase(),
            op,
            kernel: String::new(),
            integers,
            macs: if op == "QConv" { 4_000_000 } else { 0 },
            bytes: 1_000,
            offsets: Vec::new(),
        }
    }

    fn peak(int8: f64) -> Peak {
        Peak { macs_per_second: 1e9, int8_macs_per_second: int8, bytes_per_second: 1e9 }
    }

    fn check(times: &[(&'static str, bool, f64)], int8: f64, want: &[&str]) {
        let steps: Vec<StepInfo> = times.iter().map(|&(op, integers, _)| step(op, integers)).collect();
        let steps: Vec<(&StepInfo, f64)> =
            steps.iter().zip(times).map(|(step, &(.., ms))| (step, ms)).collect();
        let remarks = remarks(&steps, &peak(int8));
        assert_eq!(remarks.len(), want.len(), "{remarks:?}");
        for (remark, want) in remarks.iter().zip(want) {
            assert!(remark.contains(want), "{remark:?} should say {want:?}");
        }
    }

    #[test]
    fn what_does_not_pay_or_apply_is_said() {
        check(&[("Conv", false, 5.0)], 1e9, &[]);
        let integers = [("Quantize", true, 0.1), ("QConv", true, 9.0), ("Dequantize", false, 0.1)];
        check(&integers, 4e9, &[]);
        check(&integers, 1.2e9, &["1.2 times the multiply-adds of f32"]);
        let mixed = [integers[0], integers[1], ("Transpose", false, 1.0), ("Softmax", false, 1.0)];
        check(&mixed, 4e9, &["2 of 4 steps run in f32, 18 % of the time: Softmax, Transpose"]);
        let changing = [("Quantize", true, 1.0), ("Reorder", true, 1.0), ("QConv", true, 8.0)];
        check(&changing, 4e9, &["20 % of the time goes into changes of type and order"]);
    }

    #[test]
    fn integers_are_compared_with_their_own_limit() {
        let row = row(&step("QConv", true), 2.0, &peak(4e9));
        assert_eq!(
            (&row["roofline_ms"], &row["of_roofline"], &row["gmacs_per_s"]),
            (&json!(1.0), &json!(0.5), &json!(2.0))
        );
    }
}
