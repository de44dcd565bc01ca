//! What the search tries next, where the user fixes nothing.

use super::variant::{Sparsity, Structure};

/// Shares of the multiply-adds that pruning removes, from cautious to bold.
const PRUNE: [f64; 4] = [0.25, 0.45, 0.65, 0.8];
/// Share of zeros at which sparse kernels are far faster than dense ones and networks still learn.
const SPARSITY: f64 = 0.75;

/// How the best of the candidates that were made of a network in one way stands to the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is kept.
    Keeps,
    /// The metric falls too far, and nothing else.
    Drops,
    /// It is too large or too slow.
    Costs,
}

/// What was tried.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tried {
    /// What was taken out.
    pub(super) structure: Structure,
    /// Whether it was trained with its roundings, or quantized after training.
    pub(super) qat: bool,
    /// What came of it.
    pub(super) verdict: Verdict,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Move {
    /// Take that out, train, and quantize.
    Change(Structure),
    /// Train what was tried so with its roundings.
    Qat(Structure),
}

/// From cheap to dear: a network that only answers worse is trained with its roundings; where something is too large or too
/// slow, or there is time to look for something faster (`is_thorough`), channels go, more and more of them until the metric
/// falls too far; last come blocks of zeros, which make a network faster, not smaller: small ones where large ones cost too
/// much accuracy. `None` where nothing is left to try.
pub(super) fn next(tried: &[Tried], is_thorough: bool) -> Option<Move> {
    let keeps = |t: &Tried| t.verdict == Verdict::Keeps;
    let is_kept = tried.iter().any(keeps);
    let qat = |s: Structure| tried.iter().any(|t| t.qat && t.structure == s);
    let drops = tried.iter().find(|t| !t.qat && t.verdict == Verdict::Drops && !qat(t.structure));
    if let Some(drops) = drops.filter(|_| !is_kept || is_thorough) {
        return Some(Move::Qat(drops.structure));
    }
    if is_kept && !is_thorough {
        return None;
    }
    // The last word on a network is that of its best candidates.
    let last = |s: Structure| {
        let of: Vec<&Tried> = tried.iter().filter(|t| t.structure == s).collect();
        let kept = of.iter().find(|t| keeps(t)).or(of.last());
        kept.map(|t| t.verdict)
    };
    let whole = last(Structure::default())?;
    let mut reached = None;
    for share in PRUNE {
        let pruned = Structure { prune: Some(share), sparsity: None };
        match last(pruned) {
            Some(Verdict::Drops) => break,
            Some(Verdict::Keeps) => reached = Some(pruned),
            Some(Verdict::Costs) => {}
            // A network that answers worse than it may already will not answer better with less.
            None if whole == Verdict::Drops => break,
            None => return Some(Move::Change(pruned)),
        }
    }
    if whole == Verdict::Drops {
        return None;
    }
    let from = reached.unwrap_or_default();
    for block_outputs in Sparsity::BLOCKS {
        let sparse = Structure { sparsity: Some(Sparsity { share: SPARSITY, block_outputs }), ..from };
        match last(sparse) {
            None => return Some(Move::Change(sparse)),
            Some(Verdict::Drops) => {}
            Some(_) => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::{Costs, Drops, Keeps};

    /// The moves, as text, with the verdict that each gets.
    fn check(is_thorough: bool, plays: &[(&str, Verdict)], end: Option<&str>) {
        let mut tried = vec![];
        for (at, &(want, verdict)) in plays.iter().enumerate() {
            let (text, structure, qat) = match at {
                0 => ("ptq".into(), Structure::default(), false),
                _ => described(next(&tried, is_thorough).expect(want)),
            };
            assert_eq!(text, want, "move {at} of {plays:?}");
            tried.push(Tried { structure, qat, verdict });
        }
        let last = next(&tried, is_thorough).map(|m| described(m).0);
        assert_eq!(last.as_deref(), end, "after {plays:?}");
    }

    fn described(m: Move) -> (String, Structure, bool) {
        let (word, structure, qat) = match m {
            Move::Change(structure) => ("", structure, false),
            Move::Qat(structure) => ("qat ", structure, true),
        };
        let pruned = structure.prune.map_or(String::new(), |share| format!("p{share}"));
        let zeros = structure.sparsity.map_or(String::new(), |zeros| {
            format!("s{}{}", zeros.share, if zeros.block_outputs == 1 { "x1" } else { "" })
        });
        let text = format!("{word}{pruned}{zeros}");
        (text.trim_end().into(), structure, qat)
    }

    #[test]
    fn from_cheap_to_dear() {
        check(false, &[("ptq", Keeps)], None);
        check(false, &[("ptq", Drops)], Some("qat"));
        check(false, &[("ptq", Drops), ("qat", Keeps)], None);
        check(false, &[("ptq", Drops), ("qat", Drops)], None);
        check(false, &[("ptq", Costs), ("p0.25", Keeps)], None);
        let far = [("ptq", Costs), ("p0.25", Costs), ("p0.45", Drops), ("qat p0.45", Drops)];
        check(false, &far, Some("s0.75"));
        check(false, &[&far[..], &[("s0.75", Costs)]].concat(), None);
    }

    #[test]
    fn with_time_it_goes_on_to_what_is_faster() {
        let plays =
            [("ptq", Keeps), ("p0.25", Keeps), ("p0.45", Drops), ("qat p0.45", Keeps), ("p0.65", Drops)];
        check(true, &plays, Some("qat p0.65"));
        let plays = [&plays[..], &[("qat p0.65", Drops)]].concat();
        check(true, &plays, Some("p0.45s0.75"));
        check(true, &[&plays[..], &[("p0.45s0.75", Keeps)]].concat(), None);
        let plays = [&plays[..], &[("p0.45s0.75", Drops), ("qat p0.45s0.75", Drops)]].concat();
        check(true, &plays, Some("p0.45s0.75x1"));
        check(true, &[&plays[..], &[("p0.45s0.75x1", Keeps)]].concat(), None);
        check(true, &[&plays[..], &[("p0.45s0.75x1", Costs)]].concat(), None);
        check(true, &[("ptq", Drops), ("qat", Drops)], None);
    }
}
