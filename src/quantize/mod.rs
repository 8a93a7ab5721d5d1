//! Float checkpoints -> `pack-quantized` ones of compressed-tensors, tensor by tensor through small buffers.
//!
//! A weight is `scale * (q - zero)`, `q` an unsigned integer of 4 or 8 bits; `zero` is `2^(bits - 1)` where scales are
//! symmetric. Layout: <https://github.com/vllm-project/compressed-tensors> (`compressors/pack_quantized`).

mod journal;
mod packing;
mod plan;
mod report;

pub use report::{Event, Packed, QuantizeOptions, Summary};

use std::path::Path;

use xxhash_rust::xxh3::Xxh3Default;

use crate::error::{Error, Result, printable};
use crate::files::checkpoint::{Checkpoint, StoredTensor};
use crate::files::new_folder::NewFolder;
use crate::files::safetensors::{CheckpointWriter, NewTensor};
use crate::files::source::Source;
use journal::{Done, Journal, fingerprint};
use packing::{Scheme, pack_rows_in_threads};
use plan::{Job, outputs, plan, scheme_of};

/// Files longer than this are split.
const MAX_FILE_BYTES: u64 = 4 << 30;
/// Stored bytes of weights that are worked on at a time.
const CHUNK_BYTES: usize = 4 << 20;
/// Bytes read between two points from which an interrupted run can go on, at least.
const SAVE_EVERY_BYTES: u64 = 64 << 20;
const MAX_SMALL_BYTES: u64 = 64 << 20;

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

/// Writes the checkpoint `source` with packed matrices to the new folder `folder`.
///
/// Packed are the matrices of linear layers, `lm_head` among them. Everything else is copied as it is, and so is a
/// matrix whose columns the group's size does not divide, or of 8 rows or fewer where they would have 4-bit zero points
/// ([`Summary::kept`]). Until it is complete the result has the name `folder` with `.part` behind it; a run that finds
/// such a folder of the same options goes on with it, and begins anew where bytes that were read are others now. Host memory: some tens of megabytes, whatever the
/// model's size.
///
/// # Errors
/// `E_INPUT` for options out of range, a source that is packed already, or an `ignore` entry that no module has;
/// `E_STATE` when `folder` is there already or another run writes it, or the source changes while it is read; `E_NONFINITE` for a weight that is no number;
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
    let folder = NewFolder::begin(folder)?;
    let groups: Vec<Vec<NewTensor>> = jobs.iter().map(|job| outputs(job, options)).collect();
    let config = config_json(&checkpoint, options, &ignored).await?;
    let mut journal = Journal::open(&folder, fingerprint(&config, &jobs))?;
    let before = checkpoint.stamps().await?;
    go_on(&checkpoint, &jobs, &mut journal, on_event).await?;
    let mut writer = CheckpointWriter::open(folder.part(), &groups, MAX_FILE_BYTES)?;
    let mut summary = Summary {
        kept,
        source_bytes: jobs.iter().map(|job| job.info.bytes).sum(),
        written_bytes: groups.iter().flatten().filter_map(NewTensor::bytes).sum(),
        ..Summary::default()
    };
    let mut worked = work(&checkpoint, &jobs, options, &mut writer, &mut journal, &mut summary, on_event).await;
    if worked.is_ok() && checkpoint.stamps().await? != before {
        let reason = "was changed while it was read; the same command checks what is done, and goes on";
        worked = Err(Error::State { reason: format!("{} {reason}", checkpoint.describe()) });
    }
    if let Err(e) = worked {
        writer.sync()?;
        journal.save()?;
        return Err(e);
    }
    summary.files = writer.file_names().map(String::from).collect();
    writer.finish(folder.part())?;
    journal.save()?;
    for name in COMPANIONS {
        if let Some(bytes) = checkpoint.read_small(name, MAX_SMALL_BYTES).await? {
            folder.write(name, &bytes)?;
        }
    }
    folder.write("config.json", config.as_bytes())?;
    journal.remove()?;
    folder.finish()?;
    Ok(summary)
}

/// Sees whether what an earlier run has done was done of the same bytes, and forgets all of it where it was not.
async fn go_on(
    checkpoint: &Checkpoint,
    jobs: &[Job<'_>],
    journal: &mut Journal,
    on_event: &mut dyn FnMut(Event),
) -> Result<()> {
    let mut same = !journal.of_another;
    let done = |job: &&Job<'_>| journal.done.contains_key(&job.info.name);
    let total = jobs.iter().filter(done).map(|job| job.info.bytes).sum();
    let mut bytes = 0;
    for job in jobs.iter().filter(done) {
        let mut hash = Xxh3Default::new();
        read_all(checkpoint, job.info, &mut |_, read| {
            hash.update(read);
            bytes += read.len() as u64;
            on_event(Event::Progress { bytes, total });
            Ok(())
        })
        .await?;
        if hash.digest() != journal.done[&job.info.name].hash {
            same = false;
            break;
        }
    }
    if !same {
        journal.clear()?;
        on_event(Event::Anew);
    } else if !journal.done.is_empty() {
        on_event(Event::Resumed { tensors: journal.done.len() });
    }
    Ok(())
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
        let done = match journal.done.get(&info.name) {
            Some(&done) => {
                on_bytes(info.bytes);
                done
            }
            None => {
                let done = match job.module {
                    Some(module) => {
                        let scheme = scheme_of(job, options);
                        pack_tensor(checkpoint, info, module, scheme, writer, &mut on_bytes).await?
                    }
                    None => copy_tensor(checkpoint, info, writer, &mut on_bytes).await?,
                };
                journal.add(&info.name, done);
                unsaved += info.bytes;
                if unsaved >= SAVE_EVERY_BYTES {
                    writer.sync()?;
                    journal.save()?;
                    unsaved = 0;
                }
                done
            }
        };
        let (error, squares) = done.sums;
        if let Some(module) = job.module {
            let packed = Packed { name: module.into(), rows: info.shape[0], cols: info.shape[1], error, squares };
            on_event(Event::Packed(&packed));
            summary.packed.push(packed);
        }
    }
    Ok(())
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

/// Reads a tensor in pieces; `on_piece` is told where each begins.
async fn read_all(
    checkpoint: &Checkpoint,
    info: &StoredTensor,
    on_piece: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES.min(info.bytes as usize)];
    let mut at = 0;
    while at < info.bytes {
        let count = buffer.len().min((info.bytes - at) as usize);
        checkpoint.read(info, at, &mut buffer[..count]).await?;
        on_piece(at, &buffer[..count])?;
        at += count as u64;
    }
    Ok(())
}

/// Copies a tensor as it is.
async fn copy_tensor(
    checkpoint: &Checkpoint,
    info: &StoredTensor,
    writer: &mut CheckpointWriter,
    on_bytes: &mut dyn FnMut(u64),
) -> Result<Done> {
    let mut hash = Xxh3Default::new();
    read_all(checkpoint, info, &mut |at, read| {
        hash.update(read);
        writer.write(&info.name, at, read)?;
        on_bytes(read.len() as u64);
        Ok(())
    })
    .await?;
    Ok(Done { sums: (0.0, 0.0), hash: hash.digest() })
}

/// Packs a matrix, some rows at a time.
async fn pack_tensor(
    checkpoint: &Checkpoint,
    info: &StoredTensor,
    module: &str,
    scheme: Scheme,
    writer: &mut CheckpointWriter,
    on_bytes: &mut dyn FnMut(u64),
) -> Result<Done> {
    let (rows, cols) = (info.shape[0] as usize, info.shape[1] as usize);
    let row_bytes = (info.bytes / info.shape[0]) as usize;
    let (row_words, groups) = ((cols * scheme.bits as usize).div_ceil(32), cols / scheme.group);
    // Whole words of zero points, which are packed along the rows.
    let step = (CHUNK_BYTES / row_bytes).max(1).next_multiple_of(8);
    let name = |end: &str| format!("{module}.weight_{end}");
    let mut buffer = vec![0; step.min(rows) * row_bytes];
    let mut sums = (0.0, 0.0);
    let mut hash = Xxh3Default::new();
    for row in (0..rows).step_by(step) {
        let count = step.min(rows - row);
        let bytes = &mut buffer[..count * row_bytes];
        checkpoint.read(info, (row * row_bytes) as u64, bytes).await?;
        hash.update(bytes);
        let values = info.dtype.to_f32(&info.name, bytes)?;
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
    Ok(Done { sums, hash: hash.digest() })
}
