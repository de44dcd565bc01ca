//! `Plan::run` allocates nothing. The one test of this binary: the allocator counts for the whole process.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{set_inputs, tensors};
use espalier_graph::{Bindings, Graph, Op, Role, Shape, TensorType, UnaryFn, ValueId, Window};
use espalier_passes::{Optimizer, differentiate, fold_batch_norm, training, update};
use espalier_runtime::{Isa, Options, Pool, lower};

/// The system's allocator, counting.
struct Counting;

static CALLS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the caller keeps the rules of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        CALLS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the caller keeps the rules of `dealloc`.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Calls of the allocator, by any thread, while `f` runs.
fn calls(f: impl FnOnce()) -> usize {
    let before = CALLS.load(Ordering::SeqCst);
    f();
    CALLS.load(Ordering::SeqCst) - before
}

/// A small network with a residual block, depthwise and strided convolutions, pooling and a linear layer.
fn network() -> Graph {
    let mut g = Graph::new();
    let x = g.add_input("x", TensorType::f32(Shape::batched(&[3, 13, 11]))).unwrap();
    let x = normalised(&mut g, "stem", x, 18, Window::square(3, 2, 1), 1);
    let y = normalised(&mut g, "depthwise", x, 18, Window::square(3, 1, 1), 18);
    let y = normalised(&mut g, "point", y, 18, Window::square(1, 1, 0), 1);
    let x = g.sum("sum", x, y).unwrap();
    let x = g.add("max", Op::MaxPool { window: Window::square(2, 2, 0) }, &[x]).unwrap();
    let x = g.global_avg_pool("mean", x).unwrap();
    let x = g.dropout("dropout", x, 0.2).unwrap();
    let logits = g.linear("fc", x, 5).unwrap();
    g.add_output("logits", logits).unwrap();
    g
}

fn normalised(g: &mut Graph, name: &str, x: ValueId, out: usize, window: Window, groups: usize) -> ValueId {
    let x = g.conv2d(name, x, out, window, groups, false).unwrap();
    let x = g.batch_norm(&format!("{name}.bn"), x, 1e-5, 0.1).unwrap();
    g.unary(&format!("{name}.relu"), UnaryFn::Relu, x).unwrap()
}

fn training_step(optimizer: Optimizer) -> Graph {
    let mut g = training(&network(), &|_| false).unwrap();
    let logits = g.output("logits").unwrap();
    let target = g.add_input("target.positive", g.ty(logits).clone()).unwrap();
    let loss = g.add("loss", Op::CrossEntropy, &[logits, target]).unwrap();
    let seed = g.add("seed", Op::Fill { shape: Shape::default(), value: 1.0 }, &[]).unwrap();
    let weights: Vec<_> = g.states().iter().filter(|s| s.role == Role::Weight).map(|s| s.value).collect();
    let gradients = differentiate(&mut g, &[(loss, seed)], &weights).unwrap();
    let pairs: Vec<_> = weights.into_iter().zip(gradients.into_iter().flatten()).collect();
    update(&mut g, &pairs, optimizer, 1e-4, &|_, rank| rank > 1, Some(1.0)).unwrap();
    g
}

/// Dense, sparse and depthwise convolutions of bytes.
const INTEGERS: &str = "\
input x: f32[N,8,13,11]
weight w: s8[8,8,3,3]
weight sparse.w: s8[8,8,3,3]
weight depthwise.w: s8[8,1,3,3]
weight scale: f32[8]
weight b: i32[8]
q: q8(0.1,3)[N,8,13,11] = Quantize(x) to=q8(0.1,3)
a: q8(0.1,3)[N,8,7,6] = QConv(q, w, scale, b) window=[[3,3],[2,2],[1,1,1,1],[1,1]] groups=1 to=q8(0.1,3) limits=[3,255]
s: q8(0.1,3)[N,8,7,6] = QConv(a, sparse.w, scale, b) window=[[3,3],[1,1],[1,1,1,1],[1,1]] groups=1 to=q8(0.1,3) limits=[3,255]
d: q8(0.1,3)[N,8,7,6] = QConv(s, depthwise.w, scale, b) window=[[3,3],[1,1],[1,1,1,1],[1,1]] groups=8 to=q8(0.1,3) limits=[3,255]
y: f32[N,8,7,6] = Dequantize(d)
output y = y
";

fn check(what: &str, graph: &Graph) {
    for isa in Isa::available() {
        for threads in [1, 2] {
            let options = Options { isa, threads, bindings: Bindings::batch(3) };
            let given = tensors(graph, options.bindings);
            let mut plan = lower(graph, &given, options).unwrap();
            let mut pool = Pool::new(threads);
            set_inputs(&mut plan, graph, &given);
            plan.run(&mut pool);
            // A run waits for no thread that has not started yet; starting allocates.
            std::thread::sleep(std::time::Duration::from_millis(50));
            let made = calls(|| (0..3).for_each(|_| plan.run(&mut pool)));
            assert_eq!(made, 0, "allocator calls of {what} ({isa}, {threads} threads)");
        }
    }
}

#[test]
fn running_a_plan_allocates_nothing() {
    let list = || drop(std::hint::black_box(vec![0u8; 100]));
    assert_eq!(calls(list), 2, "the counter counts");
    assert!(
        calls(|| std::thread::scope(|s| drop(s.spawn(list).join()))) > 2,
        "and it counts for every thread"
    );
    let inference = espalier_passes::portable(&network()).unwrap();
    check("inference", &inference);
    let mut weights = tensors(&inference, Bindings::batch(3));
    check("folded inference", &fold_batch_norm(&inference, &mut weights).unwrap());
    check("integers", &INTEGERS.parse().unwrap());
    check("a step of SGD", &training_step(Optimizer::Sgd { momentum: 0.9, nesterov: true }));
    check("a step of AdamW", &training_step(Optimizer::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 }));
}
