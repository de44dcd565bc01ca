//! Networks of integers: whatever comes in is rounded to bytes, and comes out as floats.

use espalier_graph::{DType, Graph, Op, Quant, ResizeMode, Role, Shape, TensorType, ValueId, Window};

use super::{Growing, Made};

const CHANNELS: [usize; 8] = [1, 3, 4, 5, 16, 17, 24, 33];

/// A graph of up to twelve nodes.
pub(crate) fn grown(seed: u64) -> Graph {
    let mut growing = of_bytes(seed);
    growing.grow(1 + seed as usize % 12, Growing::on_bytes);
    growing.finish_bytes()
}

/// The beginning of a graph between bytes.
fn of_bytes(seed: u64) -> Growing {
    let mut growing = Growing::new(seed, &CHANNELS);
    let to = Quant::new(2.0 / 255.0, 127).unwrap();
    let x = growing.add(Op::Quantize { to }, &[growing.values[0]]).unwrap();
    growing.values = vec![x];
    growing
}

impl Growing {
    fn state(&mut self, kind: &str, dtype: DType, shape: &[usize]) -> ValueId {
        let name = format!("{}.{kind}", self.fresh());
        self.graph.add_state(&name, Role::Weight, TensorType { dtype, shape: Shape::known(shape) }).unwrap()
    }

    fn quant(&mut self) -> Quant {
        let scale = self.random.range(0.005, 0.05);
        let zero = self.pick(&[0, 1, 100, 127, 128, 254, 255]);
        Quant::new(scale, zero).unwrap()
    }

    fn limits(&mut self, to: Quant) -> [u8; 2] {
        match self.random.below(3) {
            0 => [to.zero(), 255],
            1 => [to.zero().min(17), to.zero().max(200)],
            _ => [0, 255],
        }
    }

    /// Another value that looks like `x`, quantization apart; `x` itself where there is none.
    fn like(&mut self, x: ValueId) -> ValueId {
        let same = |id: &&ValueId| **id != x && self.graph.ty(**id).shape == self.graph.ty(x).shape;
        let found: Vec<ValueId> = self.values.iter().filter(same).copied().collect();
        if found.is_empty() { x } else { self.pick(&found) }
    }

    fn on_bytes(&mut self, x: ValueId) -> Made {
        let is_picture = self.graph.ty(x).shape.rank() == 4;
        let to = self.quant();
        match self.random.below(18) {
            0..=4 if is_picture => self.qconv(x),
            5 | 6 => self.table(x),
            7 => {
                let (other, limits) = (self.like(x), self.limits(to));
                self.add(Op::QAdd { to, limits }, &[x, other])
            }
            8 if is_picture && self.coin() => {
                let pool = Window::square(1, 1, 0);
                let kernel = self.sizes(x)[1..].try_into().unwrap();
                let gate =
                    self.add(Op::QAvgPool { window: Window { kernel, ..pool }, count_pad: true, to }, &[x])?;
                let (to, limits) = (self.quant(), self.limits(to));
                self.add(Op::QMul { to, limits }, &[x, gate])
            }
            8 => {
                let (other, limits) = (self.like(x), self.limits(to));
                self.add(Op::QMul { to, limits }, &[x, other])
            }
            9 if is_picture => {
                let window = self.window(3);
                let count_pad = self.coin();
                self.add(Op::QAvgPool { window, count_pad, to }, &[x])
            }
            10 if is_picture => {
                let window = self.window(3);
                self.add(Op::MaxPool { window }, &[x])
            }
            11 if is_picture => {
                let size = [1 + self.random.below(9), 1 + self.random.below(9)];
                self.add(Op::Resize { mode: ResizeMode::Nearest, size }, &[x])
            }
            12 => self.qconcat(x),
            14 => self.qslice(x),
            15 => self.shuffle(x),
            16 => self.halves(x),
            17 => self.turn(x),
            13 => self.flatten(x),
            _ => self.table(x),
        }
    }

    fn window(&mut self, kernel_max: usize) -> Window {
        let kernel = [1 + self.random.below(kernel_max), 1 + self.random.below(kernel_max)];
        let stride = [1 + self.random.below(2), 1 + self.random.below(2)];
        let pad = std::array::from_fn(|i| self.random.below(kernel[i % 2]));
        Window { kernel, stride, pad, dilation: [1, 1] }
    }

    fn qconv(&mut self, x: ValueId) -> Made {
        let channels = self.sizes(x)[0];
        let (mut window, mut groups, mut out) = (self.window(5), 1, self.pick(&CHANNELS));
        match self.random.below(6) {
            0 | 1 => (groups, out) = (channels, channels),
            2 if channels.is_multiple_of(3) => (groups, out) = (3, 3 * (1 + self.random.below(6))),
            3 => window = Window::square(1, 1, 0),
            4 => window = Window::square(3, 1, 1),
            _ => {}
        }
        if self.random.below(8) == 0 {
            window.dilation = [2, 1];
        }
        let [kh, kw] = window.kernel;
        let kind = self.pick(&["w", "sparse.w"]);
        let w = self.state(kind, DType::S8, &[out, channels / groups, kh, kw]);
        let scale = self.state("small.scale", DType::F32, &[out]);
        let bias = self.state("bias", DType::I32, &[out]);
        let to = self.quant();
        let limits = self.limits(to);
        let op = Op::QConv { window, groups, to: DType::Q8(to), limits };
        let y = self.add(op.clone(), &[x, w, scale, bias])?;
        match self.random.below(4) {
            0 => {
                let other = self.like(y);
                let w = self.state("w", DType::S8, &[out, channels / groups, kh, kw]);
                if other == y { Ok(y) } else { self.add(op, &[x, w, scale, bias, other]) }
            }
            1 => self.table(y),
            _ => Ok(y),
        }
    }

    fn table(&mut self, x: ValueId) -> Made {
        let to = self.quant();
        let entries = self.state("entries", DType::U8, &[256]);
        self.add(Op::Table { to }, &[x, entries])
    }

    /// Joined are bytes of one quantization, which tables give them.
    fn qconcat(&mut self, x: ValueId) -> Made {
        let to = self.quant();
        let (pixels, fits) = (self.sizes(x)[1..].to_vec(), |sizes: &[usize]| sizes[1..].to_vec());
        let others = self.values.clone().into_iter().filter(|&id| fits(&self.sizes(id)) == pixels).take(3);
        let inputs: Vec<ValueId> = others.chain([x]).collect();
        let inputs = inputs.into_iter().map(|id| {
            let entries = self.state("entries", DType::U8, &[256]);
            self.add(Op::Table { to }, &[id, entries])
        });
        let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
        self.add(Op::Concat { axis: 1 }, &inputs)
    }

    /// Part of any axis but that of the batch, most often of the channels.
    fn qslice(&mut self, x: ValueId) -> Made {
        let sizes = self.sizes(x);
        let axis = if self.coin() { 0 } else { self.random.below(sizes.len()) };
        let start = self.random.below(sizes[axis]);
        let end = start + 1 + self.random.below(sizes[axis] - start);
        self.add(Op::Slice { axis: axis + 1, start, end }, &[x])
    }

    /// ShuffleNet's: the channels of some groups in turn.
    fn shuffle(&mut self, x: ValueId) -> Made {
        let sizes = self.sizes(x);
        let groups: Vec<usize> = (1..=sizes[0]).filter(|g| sizes[0].is_multiple_of(*g)).collect();
        let groups = self.pick(&groups);
        let split = [&[groups, sizes[0] / groups], &sizes[1..]].concat();
        let split = self.add(Op::Reshape { shape: Shape::batched(&split) }, &[x])?;
        let perm = [0, 2, 1].into_iter().chain(3..sizes.len() + 2).collect();
        let turned = self.add(Op::Transpose { perm }, &[split])?;
        self.add(Op::Reshape { shape: Shape::batched(&sizes) }, &[turned])
    }

    /// Cut in two, of which one goes through a table, and joined the other way round.
    fn halves(&mut self, x: ValueId) -> Made {
        let (channels, at) = (self.sizes(x)[0], self.sizes(x)[0].div_ceil(2));
        let first = self.add(Op::Slice { axis: 1, start: 0, end: at }, &[x])?;
        let last = self.add(Op::Slice { axis: 1, start: at, end: channels }, &[x])?;
        let to = self.graph.ty(x).dtype.quant().unwrap();
        let entries = self.state("entries", DType::U8, &[256]);
        let first = self.add(Op::Table { to }, &[first, entries])?;
        let joined = self.add(Op::Concat { axis: 1 }, &[last, first])?;
        if self.coin() { self.shuffle(joined) } else { Ok(joined) }
    }

    /// Axes in another order, and two of that along any axis.
    fn turn(&mut self, x: ValueId) -> Made {
        let mut perm: Vec<usize> = (0..=self.sizes(x).len()).collect();
        let (a, b) = (1 + self.random.below(perm.len() - 1), 1 + self.random.below(perm.len() - 1));
        perm.swap(a, b);
        let turned = self.add(Op::Transpose { perm }, &[x])?;
        let axis = 1 + self.random.below(self.sizes(turned).len());
        if self.coin() { self.add(Op::Concat { axis }, &[turned, turned]) } else { Ok(turned) }
    }

    fn flatten(&mut self, x: ValueId) -> Made {
        let sizes = self.sizes(x);
        let shape = match sizes.len() {
            1 => Shape::batched(&[sizes[0], 1, 1]),
            _ => Shape::batched(&[sizes.iter().product()]),
        };
        self.add(Op::Reshape { shape }, &[x])
    }

    /// Everything comes out as floats, by Dequantize or as the sums of a last convolution.
    fn finish_bytes(mut self) -> Graph {
        for (i, x) in self.values.clone().into_iter().enumerate() {
            let y = self.add(Op::Dequantize, &[x]).unwrap();
            self.graph.add_output(&format!("y{i}"), y).unwrap();
        }
        let mut pictures = self.values.clone().into_iter().filter(|&x| self.graph.ty(x).shape.rank() == 4);
        let x = pictures.next_back().expect("the first value is a picture");
        let w = self.state("w", DType::S8, &[5, self.sizes(x)[0], 1, 1]);
        let (scale, bias) =
            (self.state("small.scale", DType::F32, &[5]), self.state("bias", DType::I32, &[5]));
        let op = Op::QConv { window: Window::square(1, 1, 0), groups: 1, to: DType::F32, limits: [0, 255] };
        let y = self.add(op, &[x, w, scale, bias]).unwrap();
        self.graph.add_output("head", y).unwrap();
        self.graph
    }
}
