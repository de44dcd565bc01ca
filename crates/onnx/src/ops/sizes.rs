//! Sizes of what flows: known up to the batch, so they are constants.

use std::rc::Rc;

use crate::constant::{Constant, Elements, Int};
use crate::fold::part_of_shape;
use crate::import::{Importer, Made, Value};
use crate::node::Node;
use crate::shapes::product;

pub(super) fn shape(im: &mut Importer<'_>, node: &Node) -> Made {
    let x = im.flowing(node, 0)?;
    Ok(vec![Value::Constant(Rc::new(part_of_shape(node, &im.dims(x))?))])
}

pub(super) fn size(im: &mut Importer<'_>, node: &Node) -> Made {
    let x = im.flowing(node, 0)?;
    let count = Int::from(product(&im.dims(x)));
    Ok(vec![Value::Constant(Rc::new(Constant::new(vec![], Elements::Ints(vec![count]))))])
}
