//! What tells a model's embeddings from those of another.

use std::path::Path;

use pollster::block_on;
use qllama::{Error, Opened, Result};
use sha2::{Digest, Sha256};

use crate::common::Common;
use crate::many::names::base_name;

/// Bytes of each tensor that are looked at.
const BYTES: usize = 256;

/// The name of the model, and of what is used beside its weights.
///
/// # Errors
/// Those of the model's files.
pub fn name(common: &Common) -> Result<String> {
    let mut name = common.model_name()?;
    for learned in &common.adapter_weights {
        name += &format!(" with {}", base_name(learned));
    }
    if !common.adapter_weights.is_empty() && common.adapter_strength != 1.0 {
        name += &format!(" at {}", common.adapter_strength);
    }
    Ok(name)
}

/// A digest of the weights (names, types, shapes, and how each begins), of what is used beside them, and of how pictures are
/// prepared.
///
/// # Errors
/// Those of the model's files.
pub fn weights(common: &Common, opened: &Opened<'_>) -> Result<String> {
    let mut digest = Sha256::new();
    digest.update(format!("{:?}", opened.preprocessor()));
    let checkpoint = opened.checkpoint();
    for tensor in checkpoint.tensors() {
        digest.update(format!("{} {:?} {:?}", tensor.name, tensor.dtype, tensor.shape));
        let mut start = vec![0; BYTES.min(tensor.bytes as usize)];
        block_on(checkpoint.read(tensor, 0, &mut start))?;
        digest.update(&start);
    }
    for folder in &common.adapter_weights {
        let file = folder.join("adapter_model.safetensors");
        digest.update(std::fs::read(&file).map_err(|e| of_file(&file, e))?);
        digest.update(common.adapter_strength.to_le_bytes());
    }
    Ok(digest.finalize()[..16].iter().map(|byte| format!("{byte:02x}")).collect())
}

fn of_file(file: &Path, error: std::io::Error) -> Error {
    Error::System { file: base_name(file), cause: error.into() }
}
