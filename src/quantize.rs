//! Float checkpoints -> `pack-quantized` ones of compressed-tensors, tensor by tensor through small buffers.
//!
//! A weight is `scale * (q - zero)`, `q` an unsigned integer of 4 or 8 bits; `zero` is `2^(bits - 1)` where scales are
//! symmetric. A group's scale is the one of least squared error among many starts, each refitted to the integers that
//! it gives (`scale = sum(w t) / sum(t^2)`, `t = q - zero`) and rounded to the 16 bits that it is stored in.
//! Layout: <https://github.com/vllm-project/compressed-tensors> (`compressors/pack_quantized`).

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use half::{bf16, f16};

use crate::checkpoint::{Checkpoint, CheckpointWriter, NewTensor, TensorInfo, TensorType};
use crate::config::Target;
use crate::error::{Error, Result, printable};
use crate::source::{Source, base_name, io_error};

/// Files longer than this are split.
const MAX_FILE_BYTES: u64 = 4 << 30;
/// Stored bytes of weights that are worked on at a time.
const CHUNK_BYTES: usize = 4 << 20;
/// Bytes read between two points from which an interrupted run can go on, at least.
const SAVE_EVERY_BYTES: u64 = 64 << 20;
const MAX_SMALL_BYTES: u64 = 64 << 20;
/// What has been done so far, in the unfinished folder.
const JOURNAL: &str = "quantize.journal";

/// Files that go along unchanged where the source has them.
const COMPANIONS: [&str; 16] = [
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "preprocessor_config.json",
    "generation_config.json",
    "configuration_intern_vit.py",
    "configuration_internvl.py",
    "modeling_intern_vit.py",
    "modeling_internvl.py",
    "modeling_qllama.py",
    "LICENSE",
    "LICENSE.txt",
    "NOTICE",
];

/// How to pack.
#[derive(Clone, Debug)]
pub struct QuantizeOptions {
    /// 4 or 8.
    pub bits: u32,
    /// Neighbours of a row that share a scale: a multiple of 8. `None` is one scale a row.
    pub group_size: Option<usize>,
    /// Whether integers have their zero in the middle, or each group its own.
    pub symmetric: bool,
    /// Modules that stay as they are: names such as `lm_head`, or patterns such as `re:vision_model\.`.
    pub ignore: Vec<String>,
}

impl Default for QuantizeOptions {
    fn default() -> QuantizeOptions {
        QuantizeOptions { bits: 4, group_size: Some(32), symmetric: true, ignore: Vec::new() }
    }
}

/// A matrix that was packed.
#[derive(Clone, Debug, PartialEq)]
pub struct Packed {
    /// The module's name: the tensor's without `.weight`.
    pub name: String,
    pub rows: u64,
    pub cols: u64,
    /// Sum of squared differences to the source.
    pub error: f64,
    /// Sum of the source's squares.
    pub squares: f64,
}

impl Packed {
    /// Squared error over the sum of squares.
    pub fn relative_error(&self) -> f64 {
        if self.squares > 0.0 { self.error / self.squares } else { 0.0 }
    }
}

/// A matrix of a linear layer that stays as it was.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// The module's name.
    pub name: String,
    pub reason: String,
}

/// What has happened, for whoever waits.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// Bytes of weights read so far, and of all there are.
    Progress {
        bytes: u64,
        total: u64,
    },
    /// An earlier run had packed or copied this many tensors already.
    Resumed {
        tensors: usize,
    },
    Packed(&'a Packed),
    Kept(&'a Kept),
}

/// What [`quantize`] did.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    pub packed: Vec<Packed>,
    pub kept: Vec<Kept>,
    /// Bytes of all tensors before and after.
    pub source_bytes: u64,
    pub written_bytes: u64,
    pub files: Vec<String>,
}

impl Summary {
    /// Squared error of all packed matrices over the sum of their squares.
    pub fn relative_error(&self) -> f64 {
        let (error, squares) = self.packed.iter().fold((0.0, 0.0), |(e, s), p| (e + p.error, s + p.squares));
        if squares > 0.0 { error / squares } else { 0.0 }
    }
}

/// What becomes of one tensor.
struct Job<'a> {
    info: &'a TensorInfo,
    /// The module's name, where it is packed.
    module: Option<&'a str>,
}

/// How one matrix is packed.
#[derive(Clone, Copy)]
struct Scheme {
    bits: u32,
    /// Columns a group.
    group: usize,
    symmetric: bool,
    /// F16 or BF16.
    scales: TensorType,
}

/// Writes the checkpoint `source` with packed matrices to the new folder `folder`.
///
/// Packed are the matrices of linear layers, `lm_head` among them. Everything else is copied as it is, and so is a
/// matrix whose columns the group's size does not divide, or of 8 rows or fewer where they would have 4-bit zero points
/// ([`Summary::kept`]). Until it is complete the result has the
/// name `folder` with `.part` behind it; a run that finds such a folder of the same source and options goes on with it.
/// Host memory: some tens of megabytes, whatever the model's size.
///
/// # Errors
/// `E_INPUT` for options out of range, a source that is packed already, or an `ignore` entry that no module has;
/// `E_STATE` when `folder` is there already or another run writes it; `E_NONFINITE` for a weight that is no number;
/// those of [`Checkpoint::open`]; `E_IO`.
pub async fn quantize(
    source: Box<dyn Source>,
    folder: &Path,
    options: &QuantizeOptions,
    on_event: &mut dyn FnMut(Event),
) -> Result<Summary> {
    let refuse = |reason: String| Err(Error::Input { reason });
    if !matches!(options.bits, 4 | 8) {
        return refuse(format!("expected 4 or 8 bits, found {}", options.bits));
    }
    if options.group_size.is_some_and(|g| g == 0 || g % 8 != 0) {
        return refuse(format!("expected a group size that is a multiple of 8, found {:?}", options.group_size));
    }
    let checkpoint = Checkpoint::open(source).await?;
    if checkpoint.config.quantization.is_some() {
        return refuse(format!("{} is quantized already; start from the float weights", checkpoint.describe()));
    }
    let (jobs, kept, ignored) = plan(&checkpoint, options)?;
    kept.iter().for_each(|k| on_event(Event::Kept(k)));
    if folder.read_dir().is_ok_and(|mut entries| entries.next().is_some()) || folder.is_file() {
        let reason = format!("{} is there already and not empty; choose another name", base_name(folder));
        return Err(Error::State { reason });
    }

    let groups: Vec<Vec<NewTensor>> = jobs.iter().map(|job| outputs(job, options)).collect();
    let part = part_of(folder)?;
    std::fs::create_dir_all(&part).map_err(|e| io_error(&base_name(&part), &e))?;
    let config = config_json(&checkpoint, options, &ignored).await?;
    let mut journal = Journal::open(&part, fingerprint(&checkpoint, &config, &jobs).await?)?;
    if !journal.done.is_empty() {
        on_event(Event::Resumed { tensors: journal.done.len() });
    }
    let mut writer = CheckpointWriter::open(&part, &groups, MAX_FILE_BYTES)?;
    let mut summary = Summary {
        kept,
        source_bytes: jobs.iter().map(|job| job.info.bytes).sum(),
        written_bytes: groups.iter().flatten().filter_map(NewTensor::bytes).sum(),
        ..Summary::default()
    };
    let worked = work(&checkpoint, &jobs, options, &mut writer, &mut journal, &mut summary, on_event).await;
    if worked.is_err() {
        writer.sync()?;
        journal.save()?;
    }
    worked?;
    summary.files = writer.file_names().map(String::from).collect();
    writer.finish(&part)?;
    journal.save()?;
    let write = |name: &str, bytes: &[u8]| std::fs::write(part.join(name), bytes).map_err(|e| io_error(name, &e));
    for name in COMPANIONS {
        if let Some(bytes) = checkpoint.read_small(name, MAX_SMALL_BYTES).await? {
            write(name, &bytes)?;
        }
    }
    write("config.json", config.as_bytes())?;
    journal.remove()?;
    // Where the folder is there and empty.
    let _ = std::fs::remove_dir(folder);
    std::fs::rename(&part, folder).map_err(|e| io_error(&base_name(folder), &e))?;
    Ok(summary)
}

/// Packs or copies what is not done yet.
async fn work(
    checkpoint: &Checkpoint,
    jobs: &[Job<'_>],
    options: &QuantizeOptions,
    writer: &mut CheckpointWriter,
    journal: &mut Journal,
    summary: &mut Summary,
    on_event: &mut dyn FnMut(Event),
) -> Result<()> {
    let total = summary.source_bytes;
    let (mut bytes, mut unsaved) = (0, 0);
    for job in jobs {
        let info = job.info;
        let mut on_bytes = |read: u64| {
            bytes += read;
            on_event(Event::Progress { bytes, total });
        };
        let (error, squares) = match journal.done.get(&info.name) {
            Some(&sums) => {
                on_bytes(info.bytes);
                sums
            }
            None => {
                let mut sums = (0.0, 0.0);
                match job.module {
                    Some(module) => {
                        let scheme = scheme_of(info, options);
                        sums = pack_tensor(checkpoint, info, module, scheme, writer, &mut on_bytes).await?;
                    }
                    None => copy_tensor(checkpoint, info, writer, &mut on_bytes).await?,
                }
                journal.add(&info.name, sums);
                unsaved += info.bytes;
                if unsaved >= SAVE_EVERY_BYTES {
                    writer.sync()?;
                    journal.save()?;
                    unsaved = 0;
                }
                sums
            }
        };
        if let Some(module) = job.module {
            let packed = Packed { name: module.into(), rows: info.shape[0], cols: info.shape[1], error, squares };
            on_event(Event::Packed(&packed));
            summary.packed.push(packed);
        }
    }
    Ok(())
}

/// The name that a folder has until it is complete.
fn part_of(folder: &Path) -> Result<PathBuf> {
    let refuse = || Error::Io { file: base_name(folder), reason: "expected the name of a new folder".into() };
    let mut name = folder.file_name().ok_or_else(refuse)?.to_os_string();
    name.push(".part");
    Ok(folder.with_file_name(name))
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
fn plan<'a>(checkpoint: &'a Checkpoint, options: &QuantizeOptions) -> Result<(Vec<Job<'a>>, Vec<Kept>, Vec<String>)> {
    let refuse = |reason: String| Err(Error::Input { reason });
    let mut targets = Vec::new();
    for text in &options.ignore {
        match Target::parse(text) {
            Ok(target) => targets.push((text, target, false)),
            Err(reason) => return refuse(format!("--ignore {text}: {reason}")),
        }
    }
    let mut infos: Vec<_> = checkpoint.tensors().iter().collect();
    infos.sort_by_key(|info| (info.file, info.offset));
    let mut ignored = options.ignore.clone();
    let mut kept = Vec::new();
    let mut jobs = Vec::new();
    for info in infos {
        let float = TensorType::FLOATS.contains(&info.dtype) && info.shape.len() == 2 && !info.is_empty();
        let mut module = info.name.strip_suffix(".weight").filter(|name| float && is_linear(name));
        if let Some(name) = module {
            let mut reason = None;
            for (text, target, used) in &mut targets {
                if target.is_for(name) {
                    *used = true;
                    reason = Some(format!("as --ignore {text} says"));
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
        jobs.push(Job { info, module });
    }
    if let Some((text, ..)) = targets.iter().find(|(_, _, used)| !used) {
        return refuse(format!("--ignore {}: no linear layer has such a name", printable(text)));
    }
    if jobs.iter().all(|job| job.module.is_none()) {
        return refuse("there is no matrix to pack".into());
    }
    Ok((jobs, kept, ignored))
}

fn scheme_of(info: &TensorInfo, options: &QuantizeOptions) -> Scheme {
    let group = options.group_size.unwrap_or(info.shape[1] as usize);
    let scales = if info.dtype == TensorType::F16 { TensorType::F16 } else { TensorType::BF16 };
    Scheme { bits: options.bits, group, symmetric: options.symmetric, scales }
}

/// The tensors that one of the source's becomes.
fn outputs(job: &Job, options: &QuantizeOptions) -> Vec<NewTensor> {
    let info = job.info;
    let Some(module) = job.module else {
        return vec![NewTensor { name: info.name.clone(), dtype: info.dtype, shape: info.shape.clone() }];
    };
    let Scheme { bits, group, symmetric, scales } = scheme_of(info, options);
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

/// The source's `config.json` with `quantization_config`.
async fn config_json(checkpoint: &Checkpoint, options: &QuantizeOptions, ignored: &[String]) -> Result<String> {
    let fail = |reason: String| Error::Io { file: "config.json".into(), reason };
    let bytes = checkpoint.read_small("config.json", MAX_SMALL_BYTES).await?;
    let bytes = bytes.ok_or_else(|| fail("it is gone".into()))?;
    let mut config: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| fail(e.to_string()))?;
    config["quantization_config"] = serde_json::json!({
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "ignore": ignored,
        "kv_cache_scheme": null,
        "config_groups": { "group_0": {
            "targets": ["Linear"],
            "input_activations": null,
            "output_activations": null,
            "format": "pack-quantized",
            "weights": {
                "num_bits": options.bits,
                "type": "int",
                "symmetric": options.symmetric,
                "strategy": if options.group_size.is_some() { "group" } else { "channel" },
                "group_size": options.group_size,
                "dynamic": false,
                "actorder": null,
                "block_structure": null
            }
        } }
    });
    Ok(format!("{config:#}\n"))
}

/// Copies a tensor as it is.
async fn copy_tensor(
    checkpoint: &Checkpoint,
    info: &TensorInfo,
    writer: &mut CheckpointWriter,
    on_bytes: &mut dyn FnMut(u64),
) -> Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES.min(info.bytes as usize)];
    let mut at = 0;
    while at < info.bytes {
        let count = buffer.len().min((info.bytes - at) as usize);
        checkpoint.read(info, at, &mut buffer[..count]).await?;
        writer.write(&info.name, at, &buffer[..count])?;
        at += count as u64;
        on_bytes(count as u64);
    }
    Ok(())
}

/// Packs a matrix, some rows at a time; returns its squared error and its sum of squares.
async fn pack_tensor(
    checkpoint: &Checkpoint,
    info: &TensorInfo,
    module: &str,
    scheme: Scheme,
    writer: &mut CheckpointWriter,
    on_bytes: &mut dyn FnMut(u64),
) -> Result<(f64, f64)> {
    let (rows, cols) = (info.shape[0] as usize, info.shape[1] as usize);
    let row_bytes = cols * info.dtype.bytes();
    let (row_words, groups) = ((cols * scheme.bits as usize).div_ceil(32), cols / scheme.group);
    // Whole words of zero points, which are packed along the rows.
    let step = (CHUNK_BYTES / row_bytes).max(1).next_multiple_of(8);
    let name = |end: &str| format!("{module}.weight_{end}");
    let mut buffer = vec![0; step.min(rows) * row_bytes];
    let mut sums = (0.0, 0.0);
    for row in (0..rows).step_by(step) {
        let count = step.min(rows - row);
        let bytes = &mut buffer[..count * row_bytes];
        checkpoint.read(info, (row * row_bytes) as u64, bytes).await?;
        let values = info.dtype.to_f32(bytes);
        if let Some(index) = values.iter().position(|v| !v.is_finite()) {
            return Err(Error::NonFinite { what: printable(&info.name), index: (row * cols + index) as u64 });
        }
        let chunk = pack_rows_in_threads(&values, cols, scheme);
        writer.write(&name("packed"), (row * row_words * 4) as u64, bytemuck::cast_slice(&chunk.words))?;
        writer.write(&name("scale"), (row * groups * 2) as u64, bytemuck::cast_slice(&chunk.scales))?;
        if !scheme.symmetric {
            let per_word = 32 / scheme.bits as usize;
            let mut words = vec![0u32; count.div_ceil(per_word) * groups];
            for (i, &zero) in chunk.zeros.iter().enumerate() {
                let (r, g) = (i / groups, i % groups);
                words[r / per_word * groups + g] |= u32::from(zero) << (scheme.bits as usize * (r % per_word));
            }
            writer.write(&name("zero_point"), (row / per_word * groups * 4) as u64, bytemuck::cast_slice(&words))?;
        }
        sums = (sums.0 + chunk.error, sums.1 + chunk.squares);
        on_bytes((count * row_bytes) as u64);
    }
    let shape: Vec<u8> = info.shape.iter().flat_map(|n| n.to_le_bytes()).collect();
    writer.write(&name("shape"), 0, &shape)?;
    Ok(sums)
}

/// Some packed rows.
#[derive(Default)]
struct Rows {
    /// [rows, row_words]
    words: Vec<u32>,
    /// [rows, groups], in the 16-bit type of the scheme.
    scales: Vec<u16>,
    /// [rows, groups]
    zeros: Vec<u8>,
    error: f64,
    squares: f64,
}

fn pack_rows_in_threads(values: &[f32], cols: usize, scheme: Scheme) -> Rows {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let rows = values.len() / cols;
    let share = rows.div_ceil(threads).max(1) * cols;
    std::thread::scope(|scope| {
        let started: Vec<_> =
            values.chunks(share).map(|values| scope.spawn(move || pack_rows(values, cols, scheme))).collect();
        let mut all = Rows::default();
        for thread in started {
            let rows = thread.join().expect("packing does not panic");
            all.words.extend(rows.words);
            all.scales.extend(rows.scales);
            all.zeros.extend(rows.zeros);
            all.error += rows.error;
            all.squares += rows.squares;
        }
        all
    })
}

fn pack_rows(values: &[f32], cols: usize, scheme: Scheme) -> Rows {
    let bits = scheme.bits as usize;
    let row_words = (cols * bits).div_ceil(32);
    let mut out = Rows { words: vec![0; values.len() / cols * row_words], ..Rows::default() };
    for (row, words) in values.chunks(cols).zip(out.words.chunks_mut(row_words)) {
        for (g, group) in row.chunks(scheme.group).enumerate() {
            let fit = fit(group, scheme);
            for (i, &w) in group.iter().enumerate() {
                let q = fit.code(w, scheme.bits);
                let at = (g * scheme.group + i) * bits;
                words[at / 32] |= q << (at % 32);
                let difference = f64::from(w) - f64::from(fit.scale) * (f64::from(q) - f64::from(fit.zero));
                out.error += difference * difference;
                out.squares += f64::from(w) * f64::from(w);
            }
            out.scales.push(match scheme.scales {
                TensorType::F16 => f16::from_f32(fit.scale).to_bits(),
                _ => bf16::from_f32(fit.scale).to_bits(),
            });
            out.zeros.push(fit.zero as u8);
        }
    }
    out
}

/// The scale, exact in its stored type, and the zero of a group.
#[derive(Clone, Copy)]
struct Fit {
    scale: f32,
    zero: f32,
    error: f32,
}

impl Fit {
    fn code(&self, w: f32, bits: u32) -> u32 {
        let largest = ((1u32 << bits) - 1) as f32;
        (nearest((w / self.scale).clamp(-self.zero, largest - self.zero)) + self.zero) as u32
    }
}

/// Rounds numbers below 2^22 to the nearest whole one, ties to the even one, in instructions that every processor has.
fn nearest(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    (x + SHIFT) - SHIFT
}

/// The best scale and zero of a group of finite weights.
fn fit(weights: &[f32], scheme: Scheme) -> Fit {
    let largest = ((1u32 << scheme.bits) - 1) as f32;
    let middle = (1u32 << (scheme.bits - 1)) as f32;
    let (low, high) = weights.iter().fold((0.0f32, 0.0f32), |(l, h), &w| (l.min(w), h.max(w)));
    // Everything at zero: what no scale is worse than.
    let zeros = weights.iter().map(|w| w * w).sum();
    let mut best = Fit { scale: 1.0, zero: middle, error: zeros };
    if low == high {
        return best;
    }
    // With 8 bits little is gained by cutting off large values; with 4 much.
    let (starts, step) = if scheme.bits == 4 { (24, 0.03) } else { (10, 0.01) };
    for start in 0..starts {
        let share = 1.08 - start as f32 * step;
        if scheme.symmetric {
            try_scale(weights, share * high.max(-low) / (middle - 1.0), middle, largest, scheme, &mut best);
        } else {
            let cut = (1.0 - share) / 2.0 * (high - low);
            let scale = share * (high - low) / largest;
            let zero = nearest((-(low + cut) / scale).clamp(0.0, largest));
            for zero in [zero - 1.0, zero, zero + 1.0] {
                if (0.0..=largest).contains(&zero) {
                    try_scale(weights, scale, zero, largest, scheme, &mut best);
                }
            }
        }
    }
    // The best once more until it stays.
    for _ in 0..8 {
        let before = best.error;
        try_scale(weights, best.scale, best.zero, largest, scheme, &mut best);
        if best.error == before {
            break;
        }
    }
    best
}

/// Refits `scale` to the integers that it gives, and keeps it when it is better than `best`.
fn try_scale(weights: &[f32], scale: f32, zero: f32, largest: f32, scheme: Scheme, best: &mut Fit) {
    let inverse = scale.recip();
    if !(inverse.is_finite() && inverse > 0.0) {
        return;
    }
    let (low, high) = (-zero, largest - zero);
    let product = sum_of(weights, |w| w * nearest((w * inverse).clamp(low, high)));
    let square = sum_of(weights, |w| {
        let t = nearest((w * inverse).clamp(low, high));
        t * t
    });
    let refitted = product / square;
    let stored = match scheme.scales {
        TensorType::F16 => f16::from_f32(refitted).to_f32(),
        _ => bf16::from_f32(refitted).to_f32(),
    };
    let inverse = stored.recip();
    if !(stored.is_finite() && inverse.is_finite() && inverse > 0.0) {
        return;
    }
    let error = sum_of(weights, |w| {
        let difference = w - stored * nearest((w * inverse).clamp(low, high));
        difference * difference
    });
    if error < best.error {
        *best = Fit { scale: stored, zero, error };
    }
}

/// The sum of a term a weight, in eight lanes.
fn sum_of(weights: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; 8];
    let (eights, rest) = weights.as_chunks::<8>();
    for eight in eights {
        for (lane, &w) in lanes.iter_mut().zip(eight) {
            *lane += term(w);
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().map(|&w| term(w)).sum::<f32>()
}

/// A number that another source, other weights or other options make another.
async fn fingerprint(checkpoint: &Checkpoint, config: &str, jobs: &[Job<'_>]) -> Result<String> {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut add = |bytes: &[u8]| {
        for &byte in bytes {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    };
    add(env!("CARGO_PKG_VERSION").as_bytes());
    add(config.as_bytes());
    let mut start = [0; 512];
    for job in jobs {
        add(format!("{} {} {:?} {:?};", job.info.name, job.info.dtype, job.info.shape, job.module).as_bytes());
        let start = &mut start[..job.info.bytes.min(512) as usize];
        checkpoint.read(job.info, 0, start).await?;
        add(start);
    }
    Ok(format!("{hash:016x}"))
}

/// The tensors that are done: a line each (sums as the bits of their f64), behind a line with the fingerprint. Locked while a run writes.
struct Journal {
    path: PathBuf,
    file: File,
    /// Squared error and sum of squares by the source's tensor name.
    done: HashMap<String, (f64, f64)>,
    unsaved: String,
}

impl Journal {
    /// Opens the journal in a folder; one of another source or other options is begun anew.
    fn open(folder: &Path, fingerprint: String) -> Result<Journal> {
        let path = folder.join(JOURNAL);
        let fail = |e: std::io::Error| io_error(JOURNAL, &e);
        let mut options = File::options();
        let file = options.create(true).truncate(false).read(true).append(true).open(&path).map_err(fail)?;
        if let Err(e) = file.try_lock() {
            return match e {
                std::fs::TryLockError::WouldBlock => {
                    Err(Error::State { reason: format!("another run is writing {}", base_name(folder)) })
                }
                std::fs::TryLockError::Error(e) => Err(fail(e)),
            };
        }
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let mut lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        let mut done = HashMap::new();
        let mut unsaved = String::new();
        if lines.next() == Some(&fingerprint) {
            for line in lines {
                if let Ok((name, error, squares)) = serde_json::from_str::<(String, u64, u64)>(line) {
                    done.insert(name, (f64::from_bits(error), f64::from_bits(squares)));
                }
            }
            if !text.ends_with('\n') {
                unsaved.push('\n');
            }
        } else {
            file.set_len(0).map_err(fail)?;
            unsaved = format!("{fingerprint}\n");
        }
        Ok(Journal { path, file, done, unsaved })
    }

    fn add(&mut self, name: &str, sums: (f64, f64)) {
        self.unsaved += &format!("{}\n", serde_json::json!((name, sums.0.to_bits(), sums.1.to_bits())));
    }

    /// Writes what was added. Call it when the tensors themselves are on the disk.
    fn save(&mut self) -> Result<()> {
        let done = self.file.write_all(self.unsaved.as_bytes()).and_then(|()| self.file.sync_data());
        self.unsaved.clear();
        done.map_err(|e| io_error(JOURNAL, &e))
    }

    fn remove(self) -> Result<()> {
        std::fs::remove_file(&self.path).map_err(|e| io_error(JOURNAL, &e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scheme(bits: u32, group: usize, symmetric: bool) -> Scheme {
        Scheme { bits, group, symmetric, scales: TensorType::BF16 }
    }

    fn relative_error(values: &[f32], cols: usize, scheme: Scheme) -> f64 {
        let rows = pack_rows(values, cols, scheme);
        rows.error / rows.squares
    }

    /// Numbers of a normal distribution, nearly: sums of twelve even ones.
    fn normal(count: usize) -> Vec<f32> {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        (0..count).map(|_| (0..12).map(|_| next()).sum::<f32>() - 6.0).collect()
    }

    #[test]
    fn groups_that_integers_hold_are_exact() {
        let values: Vec<f32> = (0..64).map(|i| 0.25 * ((i % 16) as f32 - 8.0)).collect();
        let rows = pack_rows(&values, 32, scheme(4, 32, true));
        assert_eq!((rows.error, rows.scales[0]), (0.0, bf16::from_f32(0.25).to_bits()));
        assert_eq!(rows.words[0], 0x7654_3210);
        assert_eq!(rows.words[1], 0xfedc_ba98);
        let shifted: Vec<f32> = values.iter().map(|v| v + 1.25).collect();
        let rows = pack_rows(&shifted, 32, scheme(4, 32, false));
        assert_eq!((rows.error, rows.zeros[0]), (0.0, 3));
    }

    #[test]
    fn degenerate_groups() {
        for symmetric in [true, false] {
            let s = scheme(4, 32, symmetric);
            assert_eq!(pack_rows(&[0.0; 32], 32, s).error, 0.0);
            // Too small for any scale, too large for its square, and all of one sign.
            for value in [1e-45, -1e-40, 3e38, -3e38, 7.5] {
                let rows = pack_rows(&[value; 32], 32, s);
                assert!(rows.error <= rows.squares, "{value} {symmetric}");
                let scale = bf16::from_bits(rows.scales[0]).to_f32();
                assert!(scale.is_finite() && scale > 0.0, "{value}: {scale}");
            }
            assert!(relative_error(&[7.5; 32], 32, s) < 1e-4);
        }
    }

    #[test]
    fn least_squares_is_better_than_the_largest_value() {
        let values = normal(32 * 512);
        let by_largest = |values: &[f32]| {
            let mut error = 0.0;
            for group in values.chunks(32) {
                let largest = group.iter().fold(0.0f32, |m, w| m.max(w.abs()));
                let scale = bf16::from_f32(largest / 7.0).to_f32();
                error += group
                    .iter()
                    .map(|w| f64::from(w - scale * nearest((w / scale).clamp(-8.0, 7.0))).powi(2))
                    .sum::<f64>();
            }
            error / values.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>()
        };
        let (largest, least) = (by_largest(&values), relative_error(&values, 32, scheme(4, 32, true)));
        assert!(least < 0.85 * largest, "{least} {largest}");
        assert!(relative_error(&values, 32, scheme(4, 32, false)) < least);
        assert!(relative_error(&values, 32, scheme(8, 32, true)) < 4e-5);
        // A whole row a scale.
        let channel = relative_error(&values, 4096, scheme(4, 4096, true));
        assert!(channel < 1.25e-2, "{channel}");
    }
}
