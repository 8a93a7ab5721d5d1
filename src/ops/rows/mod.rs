//! Copying, adding and picking rows.

pub mod add_rows;
pub mod copy_rows;
pub mod embed;
pub mod gather_rows;
pub mod mean_rows;
pub mod selection;
