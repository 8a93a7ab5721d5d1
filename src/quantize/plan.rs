//! Which tensors are packed, and what each becomes.

use super::packing::Scheme;
use super::report::{Kept, QuantizeOptions};
use crate::error::{Error, Result, printable};
use crate::files::checkpoint::{Checkpoint, ElementType, StoredTensor};
use crate::files::config::Target;
use crate::files::safetensors::{NewTensor, TensorType};

/// What becomes of one tensor.
pub(super) struct Job<'a> {
    pub(super) info: &'a StoredTensor,
    dtype: TensorType,
    /// The module's name, where it is packed.
    pub(super) module: Option<&'a str>,
}

/// Whether a module (a tensor's name without `.weight`) is a linear layer.
fn is_linear(module: &str) -> bool {
    const NAMES: [&str; 13] = [
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
        "lm_head",
        "qkv",
        "proj",
        "fc1",
        "fc2",
        "itm_head",
    ];
    let last = module.rsplit('.').next().unwrap_or(module);
    NAMES.contains(&last)
        || (module.starts_with("clip_projector") && module.contains(".cross_attn.") && ["q", "k", "v"].contains(&last))
}

/// What becomes of each tensor, in the order in which they are stored; the matrices that stay; the `ignore` list.
pub(super) fn plan<'a>(
    checkpoint: &'a Checkpoint,
    options: &QuantizeOptions,
) -> Result<(Vec<Job<'a>>, Vec<Kept>, Vec<String>)> {
    let refuse = |reason: String| Err(Error::Input { reason });
    let mut targets = Vec::new();
    for text in &options.ignore {
        match Target::parse(text) {
            Ok(target) => targets.push((text, target, false)),
            Err(reason) => return refuse(format!("ignore {text}: {reason}")),
        }
    }
    let mut infos: Vec<_> = checkpoint.tensors().iter().collect();
    infos.sort_by_key(|info| (info.file, info.offset));
    let mut ignored = options.ignore.clone();
    let mut kept = Vec::new();
    let mut jobs = Vec::new();
    for info in infos {
        let ElementType::Number(dtype) = info.dtype else {
            return refuse(format!("{} is packed already", printable(&info.name)));
        };
        let float = TensorType::FLOATS.contains(&dtype) && info.shape.len() == 2 && info.bytes > 0;
        let mut module = info.name.strip_suffix(".weight").filter(|name| float && is_linear(name));
        if let Some(name) = module {
            let mut reason = None;
            for (text, target, used) in &mut targets {
                if target.is_for(name) {
                    *used = true;
                    reason = Some(format!("as ignore {text} says"));
                }
            }
            let (rows, cols) = (info.shape[0], info.shape[1]);
            let unfit = match options.group_size {
                Some(group) if cols % group as u64 != 0 => {
                    Some(format!("groups of {group} do not divide its {cols} columns"))
                }
                // A tensor of one row, seen as a column, defeats the package's view as bytes (0.20.0).
                _ if !options.symmetric && options.bits == 4 && rows <= 8 => {
                    Some(format!("compressed-tensors does not unpack the zero points of only {rows} rows"))
                }
                _ => None,
            };
            if reason.is_none() && unfit.is_some() {
                ignored.push(name.into());
            }
            reason = reason.or(unfit);
            if let Some(reason) = reason {
                kept.push(Kept { name: name.into(), reason });
                module = None;
            }
        }
        jobs.push(Job { info, dtype, module });
    }
    if let Some((text, ..)) = targets.iter().find(|(_, _, used)| !used) {
        return refuse(format!("ignore {}: no linear layer has such a name", printable(text)));
    }
    if jobs.iter().all(|job| job.module.is_none()) {
        return refuse("there is no matrix to pack".into());
    }
    Ok((jobs, kept, ignored))
}

pub(super) fn scheme_of(job: &Job, options: &QuantizeOptions) -> Scheme {
    let group = options.group_size.unwrap_or(job.info.shape[1] as usize);
    let scales = if job.dtype == TensorType::F16 { TensorType::F16 } else { TensorType::BF16 };
    Scheme { bits: options.bits, group, symmetric: options.symmetric, scales }
}

/// The tensors that one of the source's becomes.
pub(super) fn outputs(job: &Job, options: &QuantizeOptions) -> Vec<NewTensor> {
    let info = job.info;
    let Some(module) = job.module else {
        return vec![NewTensor { name: info.name.clone(), dtype: job.dtype, shape: info.shape.clone() }];
    };
    let Scheme { bits, group, symmetric, scales } = scheme_of(job, options);
    let (rows, cols) = (info.shape[0], info.shape[1]);
    let groups = cols / group as u64;
    let words = |n: u64| (n * u64::from(bits)).div_ceil(32);
    let tensor = |name: &str, dtype, shape: &[u64]| NewTensor {
        name: format!("{module}.weight_{name}"),
        dtype,
        shape: shape.to_vec(),
    };
    let mut all = vec![
        tensor("packed", TensorType::I32, &[rows, words(cols)]),
        tensor("scale", scales, &[rows, groups]),
        tensor("shape", TensorType::I64, &[2]),
    ];
    if !symmetric {
        all.push(tensor("zero_point", TensorType::I32, &[words(rows), groups]));
    }
    all
}
