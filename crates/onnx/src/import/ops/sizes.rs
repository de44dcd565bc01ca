//! Sizes of what flows: known up to the batch, so they are constants.

use std::rc::Rc;

use crate::import::constant::{Constant, Elements, Int};
use crate::import::fold::part_of_shape;
use crate::import::importer::{Importer, Made, Value};
use crate::import::node::Node;
use crate::import::shapes::product;

pub(super) fn shape(im: &mut Importer<'_>, node: &Node) -> Made {
    let x = im.flowing(node, 0)?;
    Ok(vec![Value::Constant(Rc::new(part_of_shape(node, &im.dims(x))?))])
}

pub(super) fn size(im: &mut Importer<'_>, node: &Node) -> Made {
    let x = im.flowing(node, 0)?;
    let count = Int::from(product(&im.dims(x)));
    Ok(vec![Value::Constant(Rc::new(Constant::new(vec![], Elements::Ints(vec![count]))))])
}
