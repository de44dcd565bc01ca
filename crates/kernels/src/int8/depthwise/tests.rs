use crate::conv::ConvGeometry;
use crate::int8::conv::testing::Problem;
use crate::int8::conv::{Method, Output};
use crate::int8::form::Form;
use crate::int8::table::Table;
use espalier_graph::Window;
use proptest::prelude::*;

fn geometry(batch: usize, channels: usize, input: [usize; 2], window: Window) -> Option<ConvGeometry> {
    let output = window.output(input)?;
    Some(ConvGeometry {
        batch,
        channels_in: channels,
        channels_out: channels,
        groups: channels,
        input,
        output,
        window,
    })
}

fn windows() -> Vec<Window> {
    let odd = |kernel, stride, pad, dilation| Window { kernel, stride, pad, dilation };
    vec![
        Window::square(3, 1, 1),
        Window::square(3, 2, 1),
        Window::square(5, 1, 2),
        Window::square(5, 2, 2),
        Window::square(1, 1, 0),
        Window::square(1, 2, 0),
        Window::square(7, 1, 3),
        Window::square(3, 1, 0),
        Window::square(3, 1, 4),
        Window::square(5, 2, 0),
        Window::square(2, 3, 1),
        odd([3, 3], [2, 2], [0, 0, 1, 1], [1, 1]),
        odd([5, 5], [1, 1], [7, 0, 0, 6], [1, 1]),
        odd([5, 5], [2, 2], [1, 3, 2, 0], [1, 1]),
        odd([5, 5], [2, 2], [3, 0, 0, 4], [1, 1]),
        odd([3, 3], [1, 1], [0, 2, 1, 0], [1, 1]),
        odd([5, 3], [1, 2], [2, 1, 0, 0], [1, 1]),
        odd([3, 5], [2, 1], [1, 0, 1, 3], [2, 1]),
        odd([3, 3], [1, 1], [2, 2, 2, 2], [2, 2]),
        odd([3, 4], [2, 4], [3, 1, 0, 2], [3, 2]),
    ]
}

#[test]
fn every_form_gives_the_bits_of_the_definition() {
    let sizes = [
        (1, 3, [1, 1]),
        (1, 3, [2, 3]),
        (2, 5, [7, 7]),
        (1, 17, [14, 14]),
        (1, 4, [8, 8]),
        (1, 6, [9, 15]),
        (1, 2, [33, 57]),
        (1, 8, [13, 28]),
        (1, 3, [31, 6]),
        (1, 3, [6, 13]),
        (1, 3, [11, 5]),
    ];
    for (seed, (batch, channels, input)) in sizes.into_iter().enumerate() {
        for window in windows() {
            let Some(g) = geometry(batch, channels, input, window) else { continue };
            let new = || Problem::new(g.clone(), seed as u64);
            new().check();
            let table = Some(Table::new(|x| 255 - x));
            new().zero(0).result(Output::Quads { zero: 77, lo: 0, hi: 255, table }).check();
            new()
                .zero(255)
                .residual(9, 0.6)
                .result(Output::Quads { zero: 77, lo: 9, hi: 200, table: None })
                .check();
        }
    }
}

#[test]
fn extremes_saturate_and_do_not_wrap() {
    for (x, w) in [(255, -128), (255, 127), (0, -128)] {
        for (zero, scale) in [(0, 1e-4), (255, 1.0), (0, -1e30), (255, f32::MAX)] {
            for window in [Window::square(3, 1, 1), Window::square(5, 2, 2)] {
                let mut p = Problem::new(geometry(1, 6, [9, 10], window).unwrap(), 1).zero(zero);
                p.x.fill(x);
                p.w.fill(w);
                p.scale.fill(scale);
                p.check();
            }
        }
    }
}

#[test]
fn names_say_what_runs() {
    let p = Problem::new(geometry(1, 6, [9, 10], Window::square(3, 1, 1)).unwrap(), 1);
    for form in Form::available() {
        let how = if form.to_string().ends_with("vbmi") { "taps gathered" } else { "tap by tap" };
        assert_eq!(
            p.prepare(form, Method::Dense).kernel.name(),
            format!("depthwise 3x3 int8, {how}, {form}")
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_geometry_gives_the_bits_of_the_definition(
        batch in 1usize..3,
        channels in 2usize..12,
        input in [1usize..40, 1usize..70],
        k in 1usize..7,
        kernel in [1usize..6, 1usize..6],
        square: bool,
        stride in 1usize..4,
        pad in [0usize..6, 0usize..6, 0usize..6, 0usize..6],
        dilation in [1usize..3, 1usize..3],
        zero: u8,
        seed in 0u64..1000,
    ) {
        let window = match square {
            true => Window { kernel: [k; 2], stride: [stride; 2], pad, dilation: [1; 2] },
            false => Window { kernel, stride: [stride, 1], pad, dilation },
        };
        let Some(g) = geometry(batch, channels, input, window) else { return Ok(()) };
        let p = Problem::new(g, seed).zero(zero);
        p.check();
    }
}
