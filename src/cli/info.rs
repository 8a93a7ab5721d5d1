//! `qllama info`.

use std::collections::BTreeMap;

use pollster::block_on;
use qllama::internals::{CROSS, Checkpoint, Footprint, INTERN_VIT, Phase, Residency, Storage};
use qllama::{Adapter, Config, Device, DeviceInfo, Maker, Result};

use crate::amounts::size;
use crate::common::Common;
use crate::device::{adapter, describe, found};
use crate::out::say;
use crate::verdict::known;

/// Show a checkpoint's sizes, the memory that it needs, and whether it fits this machine's adapters.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,
}

/// The portable limits: what the plan assumes where no adapter was found.
const PORTABLE: DeviceInfo = DeviceInfo {
    name: String::new(),
    backend: String::new(),
    driver: String::new(),
    maker: Maker::Other,
    software: false,
    weights: Storage::Buffer,
    max_binding_bytes: 128 << 20,
    max_buffer_bytes: 256 << 20,
    shares_scratch: true,
};

/// What an adapter makes of a checkpoint.
struct Verdict {
    info: DeviceInfo,
    /// The smallest memory budget that the model runs in.
    least: u64,
    /// What stays on it and the most bytes there; or why the model does not fit.
    fit: std::result::Result<(Residency, u64), String>,
}

impl Verdict {
    fn new(checkpoint: &Checkpoint, info: DeviceInfo, budget: u64) -> Result<Verdict> {
        let footprint = block_on(Footprint::of(checkpoint, &checkpoint.config, &info))?;
        let fit = match (footprint.fit(&info, budget), host_memory().filter(|_| info.software)) {
            (Err(error), _) => Err(error.to_string()),
            (Ok(stays), Some(host)) if footprint.peak(stays) > host => Err(format!(
                "this adapter's memory is the computer's, which has {} left, and {} are needed; --memory-budget {} is the \
                 least that the model runs in",
                size(host),
                size(footprint.peak(stays)),
                footprint.least_budget()
            )),
            (Ok(stays), _) => Ok((stays, footprint.peak(stays))),
        };
        Ok(Verdict { info, least: footprint.least_budget(), fit })
    }

    fn words(&self) -> String {
        match &self.fit {
            Ok((stays, peak)) => {
                format!("yes, in {}{}; least --memory-budget {}", size(*peak), streamed(*stays), self.least)
            }
            Err(reason) => format!("no: {reason}"),
        }
    }

    fn json(&self) -> serde_json::Value {
        let i = &self.info;
        serde_json::json!({ "name": i.name, "backend": i.backend, "driver": i.driver, "software": i.software,
            "max_binding_bytes": i.max_binding_bytes, "max_buffer_bytes": i.max_buffer_bytes,
            "least_budget_bytes": self.least, "fits": self.fit.is_ok(), "why_not": self.fit.as_ref().err(),
            "peak_bytes": self.fit.as_ref().ok().map(|(_, peak)| peak),
            "computes_wrongly": known(i),
            "streamed": self.fit.as_ref().ok().map(|(stays, _)| names(*stays)) })
    }
}

/// The parts that are read again for every picture.
fn names(stays: Residency) -> Vec<&'static str> {
    [(!stays.vision).then_some(INTERN_VIT), (!stays.cross).then_some(CROSS)].into_iter().flatten().collect()
}

fn streamed(stays: Residency) -> String {
    match names(stays)[..] {
        [] => String::new(),
        ref names => format!(", {} read again for every picture", names.join(" and ")),
    }
}

/// Bytes of the computer's memory that programs can still take, where the system says so.
fn host_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// What is told of a checkpoint.
struct Facts<'a> {
    config: &'a Config,
    /// A type of tensors, how many there are, and their bytes.
    kinds: BTreeMap<String, (usize, u64)>,
    unknown: Vec<&'a str>,
    needs: Footprint,
    stays: Residency,
    /// Adapters, each in words and with what it makes of the checkpoint.
    verdicts: Vec<(String, Verdict)>,
}

pub fn run(args: Args) -> Result<()> {
    let opened = args.common.open()?;
    let checkpoint = opened.checkpoint();
    let found = found();
    let device = match adapter(args.common.adapter.as_deref()) {
        Adapter::Cpu => Device::cpu().info(),
        _ if found.is_empty() => PORTABLE,
        adapter => adapter.choose(&found)?.map_or_else(|| Device::cpu().info(), |index| found[index].clone()),
    };
    let needs = block_on(Footprint::of(checkpoint, opened.config(), &device))?;
    let budget = args.common.memory_budget.unwrap_or(u64::MAX);
    let mut kinds: BTreeMap<String, (usize, u64)> = BTreeMap::new();
    for info in checkpoint.tensors() {
        let kind = kinds.entry(info.dtype.to_string()).or_default();
        kind.0 += 1;
        kind.1 += info.bytes;
    }
    let unknown = checkpoint.unused(|name| needs.tensors.iter().any(|t| t == name));
    let mut verdicts = Vec::new();
    for (index, info) in found.iter().enumerate() {
        let verdict = Verdict::new(checkpoint, info.clone(), budget)?;
        verdicts.push((format!("{index}: {}", describe(info)), verdict));
    }
    verdicts.push(("cpu: the CPU executor".into(), Verdict::new(checkpoint, Device::cpu().info(), budget)?));
    // In full where the budget is too little.
    let stays = needs.fit(&device, budget).unwrap_or(Residency::ALL);
    let facts = Facts { config: opened.config(), kinds, unknown, needs, stays, verdicts };
    if args.common.json {
        say!("{}", facts.json());
    } else {
        facts.print_model();
        facts.print_memory();
    }
    Ok(())
}

impl Facts<'_> {
    /// Bytes of keys and values in f32 that a row takes.
    fn cache_bytes_per_row(&self) -> u64 {
        let text = &self.config.text;
        8 * (text.num_key_value_heads * text.head_dim * text.num_hidden_layers) as u64
    }

    fn phases(&self) -> [(&'static str, &Phase); 2] {
        [(INTERN_VIT, &self.needs.vision), (CROSS, &self.needs.cross)]
    }

    fn json(&self) -> serde_json::Value {
        let Facts { kinds, unknown, needs, stays, verdicts, .. } = self;
        let stays = *stays;
        let phase = |(name, p): &(&str, &Phase)| {
            serde_json::json!({ "name": name, "layers_bytes": p.layers, "largest_layer_bytes": p.largest_layer,
                "activations_bytes": p.activations })
        };
        let part = |(name, bytes): &(&str, u64)| serde_json::json!({ "name": name, "bytes": bytes });
        let kind = |(kind, (tensors, bytes)): (&String, &(usize, u64))| serde_json::json!({ "type": kind, "tensors": tensors, "bytes": bytes });
        serde_json::json!({
            "weights_bytes": needs.weights(), "parts": needs.parts.iter().map(part).collect::<Vec<_>>(),
            "phases": self.phases().iter().map(phase).collect::<Vec<_>>(),
            "decoder_activations_bytes": needs.decoder_activations,
            "resident_bytes": needs.resident(stays), "peak_bytes": needs.peak(stays), "streamed": names(stays),
            "least_budget_bytes": needs.least_budget(), "cache_bytes_per_row": self.cache_bytes_per_row(),
            "kinds": kinds.iter().map(kind).collect::<Vec<_>>(), "unknown_tensors": unknown,
            "adapters": verdicts.iter().map(|(_, verdict)| verdict.json()).collect::<Vec<_>>(),
        })
    }

    fn print_model(&self) {
        let text = &self.config.text;
        if let Some(v) = &self.config.vision {
            say!(
                "InternViT    {} layers, width {}, {} heads, MLP {}, pictures of {} px in patches of {}",
                v.num_hidden_layers,
                v.hidden_size,
                v.num_attention_heads,
                v.intermediate_size,
                v.image_size,
                v.patch_size
            );
        }
        say!(
            "decoder      {} layers, width {}, {} heads ({} for keys), MLP {}, vocabulary {}, at most {} positions",
            text.num_hidden_layers,
            text.hidden_size,
            text.num_attention_heads,
            text.num_key_value_heads,
            text.intermediate_size,
            text.vocab_size,
            text.max_position_embeddings
        );
        if text.cross_attention {
            say!(
                "             cross-attention once in {} layers, from {} query tokens",
                text.cross_attention_frequency,
                text.num_query_token
            );
        }
        for (kind, (tensors, bytes)) in &self.kinds {
            say!("tensors      {tensors} of {kind}, {}", size(*bytes));
        }
        if !self.unknown.is_empty() {
            say!("not used     {} tensor(s): {}", self.unknown.len(), self.unknown.join(", "));
        }
    }

    fn print_memory(&self) {
        let Facts { needs, stays, .. } = self;
        say!("\nGPU memory");
        let line = |name: &str, bytes: u64| say!("  {name:48} {:>12}", size(bytes));
        for (name, bytes) in &needs.parts {
            line(name, *bytes);
        }
        line("weights together", needs.weights());
        for (name, phase) in self.phases().iter().filter(|(_, phase)| phase.activations > 0) {
            line(&format!("besides weights, {name}"), phase.activations);
        }
        line("besides weights, QLLaMA", needs.decoder_activations);
        line("  of these, keys and values a row", self.cache_bytes_per_row());
        say!("\nplan{}", streamed(*stays));
        line("weights that stay", needs.resident(*stays));
        line("at most, for a caption by 5 beams", needs.peak(*stays));
        line("least --memory-budget", needs.least_budget());
        say!("\nadapters");
        for (name, verdict) in &self.verdicts {
            say!("  {name}; fits: {}", verdict.words());
            if let Some(text) = known(&verdict.info) {
                text.lines().for_each(|line| say!("    {line}"));
            }
        }
    }
}
