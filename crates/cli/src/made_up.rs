//! Input that nobody recorded: the same in every run.

use espalier_graph::random::Random;
use espalier_graph::{Bindings, DType, Data, Tensor, TensorType};
use espalier_tasks::Image;

/// Height and width of a picture.
const SIDE: usize = 64;

/// One sample of type `ty`: floats in 0..1; integers, which are indices, are 0.
pub(crate) fn tensor(ty: &TensorType, stream: u64) -> Tensor {
    let shape = ty.shape.bind(Bindings::batch(1));
    let count = shape.iter().product();
    let mut random = Random::new(0, stream);
    let data = match ty.dtype {
        DType::F32 => Data::F32((0..count).map(|_| random.uniform()).collect()),
        DType::I32 => Data::I32(vec![0; count].into()),
        DType::U8 | DType::Q8(_) => Data::U8(vec![0; count].into()),
        DType::S8 => Data::S8(vec![0; count].into()),
    };
    Tensor::new(&shape, data)
}

/// A picture of coloured blobs: smooth as photographs are.
pub(crate) fn picture(number: u64) -> Image {
    let mut random = Random::new(1, number);
    let blobs: Vec<[f32; 6]> = (0..6).map(|_| [(); 6].map(|()| random.uniform())).collect();
    let pixel = |x: usize, y: usize| {
        [0, 1, 2].map(|channel| {
            let value = blobs.iter().map(|b| {
                let (dx, dy) = (x as f32 / SIDE as f32 - b[0], y as f32 / SIDE as f32 - b[1]);
                b[2 + channel] / (1.0 + (dx * dx + dy * dy) * 40.0 * (0.5 + b[5]))
            });
            (value.sum::<f32>() * 160.0).min(255.0) as u8
        })
    };
    let pixels = (0..SIDE * SIDE).flat_map(|i| pixel(i % SIDE, i / SIDE)).collect();
    Image { width: SIDE, height: SIDE, channels: 3, pixels }
}
