//! Dense weights between OIHW and `[tap][16 in][16 out]`, by transposing 16 x 16 elements in registers.

use super::channels::CELL;
use crate::LANES;
use crate::isa::multiversion;
use crate::lanes::Lanes;
use crate::layout::{load_up_to, store_up_to};

/// The weights between two blocks in OIHW: at most 16 rows along O, each of which has all taps of at most 16 input
/// channels side by side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Panel {
    /// OIHW index of the first element.
    pub(super) at: usize,
    /// Between rows.
    pub(super) pitch: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) taps: usize,
}

impl Panel {
    fn end(&self) -> usize {
        self.at + (self.rows - 1) * self.pitch + self.columns
    }

    /// Where the lanes of column `column` lie, if they are along O.
    fn lanes_at(&self, column: usize) -> usize {
        (column % self.taps * LANES + column / self.taps) * LANES
    }
}

multiversion!(
    /// Panel of `w` to cells of the forward pass.
    pub(super) fn pick_pack(panel: Panel, w: &[f32], cells: &mut [f32]) = pack
);
multiversion!(
    /// Panel of `w` to cells of the input gradient, whose lanes are along I.
    pub(super) fn pick_pack_transposed(panel: Panel, w: &[f32], cells: &mut [f32]) = pack_transposed
);
multiversion!(
    /// Cells of the forward pass to a panel at `w`, which must be valid for the whole panel.
    pub(super) fn pick_unpack(panel: Panel, cells: &[f32], w: *mut f32) = unpack
);

#[inline(always)]
unsafe fn pack<V: Lanes>(panel: Panel, w: &[f32], cells: &mut [f32]) {
    assert!(panel.end() <= w.len() && cells.len() == panel.taps * CELL, "{panel:?}");
    for start in (0..panel.columns).step_by(LANES) {
        let len = LANES.min(panel.columns - start);
        // SAFETY: rows are inside of `w`, cells hold 16 lanes for each of the panel's columns.
        unsafe {
            let mut rows = [V::zero(); LANES];
            for r in 0..panel.rows {
                rows[r] = load_up_to(w.as_ptr().add(panel.at + r * panel.pitch + start), len, V::zero());
            }
            let columns = V::transpose(rows);
            for j in 0..len {
                columns[j].store(cells.as_mut_ptr().add(panel.lanes_at(start + j)));
            }
        }
    }
}

#[inline(always)]
unsafe fn unpack<V: Lanes>(panel: Panel, cells: &[f32], w: *mut f32) {
    assert_eq!(cells.len(), panel.taps * CELL, "{panel:?}");
    for start in (0..panel.columns).step_by(LANES) {
        let len = LANES.min(panel.columns - start);
        // SAFETY: as in `pack`, with the panel's rows valid at `w`.
        unsafe {
            let mut columns = [V::zero(); LANES];
            for j in 0..len {
                columns[j] = V::load(cells.as_ptr().add(panel.lanes_at(start + j)));
            }
            let rows = V::transpose(columns);
            for r in 0..panel.rows {
                store_up_to(rows[r], w.add(panel.at + r * panel.pitch + start), len);
            }
        }
    }
}

#[inline(always)]
unsafe fn pack_transposed<V: Lanes>(panel: Panel, w: &[f32], cells: &mut [f32]) {
    assert!(panel.end() <= w.len() && cells.len() == panel.taps * CELL, "{panel:?}");
    let channels = panel.columns / panel.taps;
    for r in 0..panel.rows {
        // SAFETY: as in `pack`.
        unsafe {
            let row = w.as_ptr().add(panel.at + r * panel.pitch);
            let cells = cells.as_mut_ptr().add(r * LANES);
            if panel.taps == 1 {
                load_up_to(row, channels, V::zero()).store(cells);
                continue;
            }
            for start in (0..panel.taps).step_by(LANES) {
                let len = LANES.min(panel.taps - start);
                let mut by_channel = [V::zero(); LANES];
                for c in 0..channels {
                    by_channel[c] = load_up_to(row.add(c * panel.taps + start), len, V::zero());
                }
                let by_tap = V::transpose(by_channel);
                for tap in 0..len {
                    by_tap[tap].store(cells.add((start + tap) * CELL));
                }
            }
        }
    }
}
