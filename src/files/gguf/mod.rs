//! GGUF files of the LLaMA family, versions 2 and 3: one file with the sizes, the tokenizer and the weights.
//!
//! Layout, all little-endian: `GGUF`, version u32, number of tensors u64, number of fields u64; the fields (key, type
//! u32, value); the tensors (name, number of axes u32, axes u64 from the fastest, type u32, offset u64); padding to the
//! alignment; the data, to which the offsets are relative. Texts and arrays begin with their length, u64.
//! Source: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Opening reads the head in small pieces and
//! holds what the model needs of it, so its memory is bounded by the real file.

use std::collections::{HashMap, HashSet};

use crate::error::{Error, Result, printable};
use crate::files::checkpoint::{Checkpoint, TensorInfo, TensorType};
use crate::files::config::Config;
use crate::files::json::config_error;
use crate::files::source::{Source, impostor, not_found};
use crate::text::{BytePairOptions, SentencePieceOptions, Tokenizer};

/// Bytes of the head that are read at a time.
const PIECE_BYTES: u64 = 256 << 10;
/// The format's own limit of a key; names of tensors are held to it too.
const MAX_KEY_BYTES: u64 = 65535;
/// Texts longer than this are passed over, and refused where the model needs them.
const MAX_TEXT_BYTES: u64 = 64 << 10;
const MAX_ALIGNMENT: u64 = 1 << 16;

/// An open GGUF file.
pub struct Gguf {
    /// Its tensors, by the names of the safetensors layout where they have one there, and its sizes.
    pub checkpoint: Checkpoint,
    /// Where the file holds one.
    pub tokenizer: Option<Tokenizer>,
}

/// A field's value, as far as any is used.
enum Value {
    Whole(u64),
    Negative(i64),
    Number(f64),
    Flag(bool),
    Text(String),
    Texts(Vec<String>),
    Numbers(Vec<f32>),
    Wholes(Vec<i64>),
    /// A list or a long text that no one asks for.
    Other(&'static str),
}

impl Value {
    fn kind(&self) -> String {
        match self {
            Value::Whole(n) => n.to_string(),
            Value::Negative(n) => n.to_string(),
            Value::Number(x) => x.to_string(),
            Value::Flag(b) => b.to_string(),
            Value::Text(t) => format!("the text {:?}", printable(t)),
            Value::Other(what) => (*what).into(),
            Value::Texts(_) | Value::Numbers(_) | Value::Wholes(_) => "a list".into(),
        }
    }
}

/// The lists that are kept; others are passed over.
const LISTS: [&str; 4] =
    ["tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type", "tokenizer.ggml.merges"];

impl Gguf {
    /// Reads the head of the file `name` of a source: sizes, tokenizer, and where each tensor lies.
    ///
    /// # Errors
    /// - `E_IO`: no such file, or it is something else; `E_TRUNCATED`: it ends before what it announces.
    /// - `E_HEADER`: magic, version, a field's type, an alignment or a text that is not in order.
    /// - `E_DUP_KEY`: a field or a tensor twice. `E_DTYPE`: a type of weights that is not read.
    /// - `E_OVERFLOW`, `E_TENSOR_RANGE`: a tensor's size or place.
    /// - `E_CONFIG`: another architecture than the LLaMA family, sizes out of range, or what is not supported (scaled
    ///   positions, biases, experts, a model in several files). `E_TOKENIZER`: a tokenizer that contradicts itself or is
    ///   of an unknown kind.
    pub async fn open(source: Box<dyn Source>, name: &str) -> Result<Gguf> {
        let Some(size) = source.size(name).await? else { return Err(not_found(name, &*source)) };
        let head = read_head(&*source, name, size).await?;
        let mut tensors = head.tensors;
        let mut fields = Fields { file: name, values: head.fields };
        let config = read_config(&fields, &tensors)?;
        let tokenizer = read_tokenizer(&mut fields, config.text.vocab_size)?;
        for tensor in &mut tensors {
            if let Some(own) = safetensors_name(&tensor.name) {
                tensor.name = own;
            }
        }
        if let Some(twice) = duplicate(&tensors) {
            return Err(Error::DuplicateKey { file: name.into(), key: printable(twice) });
        }
        Ok(Gguf { checkpoint: Checkpoint::from_gguf(source, config, name, tensors), tokenizer })
    }
}

fn duplicate(tensors: &[TensorInfo]) -> Option<&str> {
    let mut names = HashSet::new();
    tensors.iter().map(|t| t.name.as_str()).find(|name| !names.insert(*name))
}

/// The name that a tensor of the LLaMA family has in the safetensors layout.
fn safetensors_name(name: &str) -> Option<String> {
    let whole = match name {
        "token_embd.weight" => "model.embed_tokens.weight",
        "output_norm.weight" => "model.norm.weight",
        "output.weight" => "lm_head.weight",
        _ => {
            let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
            let layer: u32 = layer.parse().ok()?;
            let own = match rest {
                "attn_norm.weight" => "input_layernorm",
                "attn_q.weight" => "self_attn.q_proj",
                "attn_k.weight" => "self_attn.k_proj",
                "attn_v.weight" => "self_attn.v_proj",
                "attn_output.weight" => "self_attn.o_proj",
                "ffn_norm.weight" => "post_attention_layernorm",
                "ffn_gate.weight" => "mlp.gate_proj",
                "ffn_up.weight" => "mlp.up_proj",
                "ffn_down.weight" => "mlp.down_proj",
                _ => return None,
            };
            return Some(format!("model.layers.{layer}.{own}.weight"));
        }
    };
    Some(whole.into())
}

/// What stands in front of the data.
struct Head {
    fields: HashMap<String, Value>,
    tensors: Vec<TensorInfo>,
}

async fn read_head(source: &dyn Source, file: &str, size: u64) -> Result<Head> {
    let mut r = Reader { source, file, size, at: 0, piece: Vec::new(), piece_at: 0 };
    r.need(8)?;
    let magic = r.bytes(4).await?;
    if magic != b"GGUF" {
        r.at = 0;
        let start = r.bytes(size.min(64)).await?;
        let reason = impostor(&start).unwrap_or("this is not a GGUF file: it does not begin with GGUF");
        return Err(Error::Io { file: file.into(), reason: reason.into() });
    }
    match r.u32().await? {
        2 | 3 => {}
        n @ (0x0200_0000 | 0x0300_0000) => {
            return Err(r.error(4, format!("version {} in big-endian order, which is not read", n >> 24)));
        }
        n => return Err(r.error(4, format!("version {n}, and 2 and 3 are read"))),
    }
    let tensor_count = r.u64().await?;
    let field_count = r.u64().await?;
    // The shortest of each: an empty name, a byte's value; a name, one axis.
    r.need_count(field_count, 13)?;
    let mut fields = HashMap::new();
    for _ in 0..field_count {
        let start = r.at;
        let key = r.text(MAX_KEY_BYTES).await?;
        if key.is_empty() {
            return Err(r.error(start, "a field without a name".into()));
        }
        let value = r.value(&key).await?;
        if fields.insert(key.clone(), value).is_some() {
            return Err(Error::DuplicateKey { file: file.into(), key: printable(&key) });
        }
    }
    let alignment = match fields.get("general.alignment") {
        None => 32,
        Some(Value::Whole(n)) if n.is_power_of_two() && (8..=MAX_ALIGNMENT).contains(n) => *n,
        Some(other) => {
            let rule = format!("expected a power of two from 8 to {MAX_ALIGNMENT}, found {}", other.kind());
            return Err(config_error(file, "general.alignment".into(), rule));
        }
    };
    r.need_count(tensor_count, 32)?;
    let mut tensors = Vec::new();
    for _ in 0..tensor_count {
        tensors.push(r.tensor(alignment).await?);
    }
    if let Some(twice) = duplicate(&tensors) {
        return Err(Error::DuplicateKey { file: file.into(), key: printable(twice) });
    }
    // Offsets are still relative to the data.
    let data = r.at.next_multiple_of(alignment);
    let mut order: Vec<_> = (0..tensors.len()).collect();
    order.sort_by_key(|&i| (tensors[i].offset, tensors[i].bytes));
    let mut end = 0;
    for i in order {
        let t = &mut tensors[i];
        let tensor = || printable(&t.name);
        if t.offset < end {
            let reason = format!("it begins at byte {} of the data, within the tensor before it", t.offset);
            return Err(Error::TensorRange { file: file.into(), tensor: tensor(), reason });
        }
        let overflow = || Error::Overflow { file: file.into(), tensor: tensor() };
        end = t.offset.checked_add(t.bytes).ok_or_else(overflow)?;
        let need = data.checked_add(end).ok_or_else(overflow)?;
        if need > size {
            return Err(Error::Truncated { file: file.into(), need, have: size });
        }
        t.offset += data;
    }
    Ok(Head { fields, tensors })
}

/// Reads the head from front to back. No length is believed before the file is known to be as long.
struct Reader<'a> {
    source: &'a dyn Source,
    file: &'a str,
    size: u64,
    at: u64,
    piece: Vec<u8>,
    piece_at: u64,
}

impl Reader<'_> {
    fn error(&self, offset: u64, reason: String) -> Error {
        Error::Header { file: self.file.into(), offset, reason }
    }

    /// Fails unless `bytes` more are there.
    fn need(&self, bytes: u64) -> Result<()> {
        let need = self.at.saturating_add(bytes);
        if need > self.size {
            return Err(Error::Truncated { file: self.file.into(), need, have: self.size });
        }
        Ok(())
    }

    /// Fails unless `count` things of `least` bytes or more can be there.
    fn need_count(&self, count: u64, least: u64) -> Result<()> {
        self.need(count.saturating_mul(least))
    }

    async fn bytes(&mut self, count: u64) -> Result<Vec<u8>> {
        self.need(count)?;
        let mut out = Vec::with_capacity(count as usize);
        while (out.len() as u64) < count {
            let start = self.at.wrapping_sub(self.piece_at);
            if self.at < self.piece_at || start >= self.piece.len() as u64 {
                self.piece.resize(PIECE_BYTES.min(self.size - self.at) as usize, 0);
                self.piece_at = self.at;
                self.source.read(self.file, self.at, &mut self.piece).await?;
                continue;
            }
            let piece = &self.piece[start as usize..];
            let taken = piece.len().min(count as usize - out.len());
            out.extend_from_slice(&piece[..taken]);
            self.at += taken as u64;
        }
        Ok(out)
    }

    async fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.bytes(N as u64).await?;
        Ok(bytes.try_into().expect("as many bytes as were asked for"))
    }

    async fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array().await?))
    }

    async fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array().await?))
    }

    async fn text(&mut self, most: u64) -> Result<String> {
        let start = self.at;
        let length = self.u64().await?;
        if length > most {
            return Err(self.error(start, format!("a text of {length} bytes, and at most {most} are read here")));
        }
        let bytes = self.bytes(length).await?;
        String::from_utf8(bytes).map_err(|_| self.error(start, "a text that is not UTF-8".into()))
    }

    /// Bytes of a number of the type `kind`; none for texts, lists and unknown types.
    fn width(kind: u32) -> Option<u64> {
        match kind {
            0 | 1 | 7 => Some(1),
            2 | 3 => Some(2),
            4..=6 => Some(4),
            10..=12 => Some(8),
            _ => None,
        }
    }

    /// A number of the type `kind`.
    async fn number(&mut self, kind: u32) -> Result<Value> {
        let start = self.at;
        let signed = |n: i64| if n < 0 { Value::Negative(n) } else { Value::Whole(n as u64) };
        Ok(match kind {
            0 => Value::Whole(self.array::<1>().await?[0].into()),
            1 => signed(i8::from_le_bytes(self.array().await?).into()),
            2 => Value::Whole(u16::from_le_bytes(self.array().await?).into()),
            3 => signed(i16::from_le_bytes(self.array().await?).into()),
            4 => Value::Whole(self.u32().await?.into()),
            5 => signed(i32::from_le_bytes(self.array().await?).into()),
            6 => Value::Number(f32::from_le_bytes(self.array().await?).into()),
            7 => match self.array::<1>().await?[0] {
                0 => Value::Flag(false),
                1 => Value::Flag(true),
                n => return Err(self.error(start, format!("expected 0 or 1 for no or yes, found {n}"))),
            },
            10 => Value::Whole(self.u64().await?),
            11 => signed(i64::from_le_bytes(self.array().await?)),
            12 => Value::Number(f64::from_le_bytes(self.array().await?)),
            _ => return Err(self.error(start, format!("a value of the unknown type {kind}"))),
        })
    }

    async fn value(&mut self, key: &str) -> Result<Value> {
        let start = self.at;
        match self.u32().await? {
            8 => {
                let start = self.at;
                let length = self.u64().await?;
                if length > MAX_TEXT_BYTES {
                    self.need(length)?;
                    self.at += length;
                    return Ok(Value::Other("a long text"));
                }
                self.at = start;
                Ok(Value::Text(self.text(MAX_TEXT_BYTES).await?))
            }
            9 => self.list(key).await,
            kind if Reader::width(kind).is_some() => self.number(kind).await,
            kind => Err(self.error(start, format!("{}: a value of the unknown type {kind}", printable(key)))),
        }
    }

    async fn list(&mut self, key: &str) -> Result<Value> {
        let start = self.at;
        let kind = self.u32().await?;
        let length = self.u64().await?;
        let keep = LISTS.contains(&key);
        if kind == 8 {
            self.need_count(length, 8)?;
            let mut texts = Vec::new();
            for _ in 0..length {
                if keep {
                    texts.push(self.text(MAX_TEXT_BYTES).await?);
                } else {
                    let bytes = self.u64().await?;
                    self.need(bytes)?;
                    self.at += bytes;
                }
            }
            return Ok(if keep { Value::Texts(texts) } else { Value::Other("a list of texts") });
        }
        let Some(width) = Reader::width(kind) else {
            let what =
                if kind == 9 { "lists of lists are not read".into() } else { format!("the unknown type {kind}") };
            return Err(self.error(start, format!("{}: a list of {what}", printable(key))));
        };
        self.need_count(length, width)?;
        if !keep {
            self.at += length * width;
            return Ok(Value::Other("a list"));
        }
        let (mut numbers, mut wholes) = (Vec::new(), Vec::new());
        for _ in 0..length {
            match self.number(kind).await? {
                Value::Number(x) => numbers.push(x as f32),
                Value::Whole(n) => wholes.push(i64::try_from(n).unwrap_or(i64::MAX)),
                Value::Negative(n) => wholes.push(n),
                _ => return Err(self.error(start, format!("{}: expected a list of numbers", printable(key)))),
            }
        }
        Ok(if matches!(kind, 6 | 12) { Value::Numbers(numbers) } else { Value::Wholes(wholes) })
    }

    /// One tensor's entry; the offset stays relative to the data.
    async fn tensor(&mut self, alignment: u64) -> Result<TensorInfo> {
        let start = self.at;
        let name = self.text(MAX_KEY_BYTES).await?;
        let file = self.file.to_string();
        let tensor = printable(&name);
        if name.is_empty() || name.chars().any(char::is_control) {
            return Err(self.error(start, format!("a tensor with the name {tensor:?}")));
        }
        let rank = self.u32().await?;
        if !(1..=4).contains(&rank) {
            let reason = format!("it has {rank} axes, and 1 to 4 are read");
            return Err(Error::TensorRange { file, tensor, reason });
        }
        let mut shape = Vec::new();
        for _ in 0..rank {
            shape.push(self.u64().await?);
        }
        let kind = self.u32().await?;
        let offset = self.u64().await?;
        use TensorType::*;
        let dtype = match kind {
            0 => F32,
            1 => F16,
            2 => Q4_0,
            3 => Q4_1,
            8 => Q8_0,
            12 => Q4_K,
            13 => Q5_K,
            14 => Q6_K,
            30 => BF16,
            other => {
                const KNOWN: [(u32, &str); 9] = [
                    (6, "Q5_0"),
                    (7, "Q5_1"),
                    (10, "Q2_K"),
                    (11, "Q3_K"),
                    (20, "IQ4_NL"),
                    (23, "IQ4_XS"),
                    (24, "I8"),
                    (26, "I32"),
                    (28, "F64"),
                ];
                let name = KNOWN.iter().find(|(n, _)| *n == other).map(|(_, name)| *name);
                let found = name.map_or_else(|| format!("number {other}"), String::from);
                let expected = "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K, Q5_K or Q6_K".into();
                return Err(Error::DType { file, tensor, expected, found });
            }
        };
        let refuse = |reason: String| Error::TensorRange { file: file.clone(), tensor: tensor.clone(), reason };
        let overflow = || Error::Overflow { file: file.clone(), tensor: tensor.clone() };
        let block = dtype.block_len() as u64;
        if shape[0] % block != 0 {
            return Err(refuse(format!("its rows of {} elements are not whole blocks of {block}", shape[0])));
        }
        if shape.contains(&0) {
            return Err(refuse("an axis is 0".into()));
        }
        let count = shape.iter().try_fold(1u64, |n, &axis| n.checked_mul(axis)).filter(|n| *n <= i64::MAX as u64);
        let bytes = count.and_then(|n| (n / block).checked_mul(dtype.bytes() as u64)).ok_or_else(overflow)?;
        if offset % alignment != 0 {
            return Err(refuse(format!("its offset {offset} is not a multiple of the alignment {alignment}")));
        }
        shape.reverse();
        Ok(TensorInfo { name, dtype, shape, file: 0, offset, bytes })
    }
}

/// The fields of a file, by name.
struct Fields<'a> {
    file: &'a str,
    values: HashMap<String, Value>,
}

impl Fields<'_> {
    fn error(&self, key: &str, rule: impl Into<String>) -> Error {
        config_error(self.file, key.into(), rule.into())
    }

    fn unexpected(&self, key: &str, expected: &str) -> Error {
        let found = self.values.get(key).map_or("nothing".into(), Value::kind);
        self.error(key, format!("expected {expected}, found {found}"))
    }

    fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Err(self.unexpected(key, "a text")),
        }
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.values.get(key) {
            None => Ok(default),
            Some(Value::Flag(flag)) => Ok(*flag),
            Some(_) => Err(self.unexpected(key, "true or false")),
        }
    }

    /// An id below `limit`.
    fn id(&self, key: &str, limit: usize) -> Result<Option<u32>> {
        match self.values.get(key) {
            None => Ok(None),
            // What converters write for "none".
            Some(Value::Negative(-1) | Value::Whole(0xffff_ffff)) => Ok(None),
            Some(Value::Whole(id)) if *id < limit as u64 => Ok(Some(*id as u32)),
            Some(_) => Err(self.unexpected(key, &format!("an id below {limit}"))),
        }
    }

    /// The value as config.json would have it.
    fn json(&self, key: &str) -> Option<serde_json::Value> {
        Some(match self.values.get(key)? {
            Value::Whole(n) => (*n).into(),
            Value::Negative(n) => (*n).into(),
            Value::Number(x) => (*x).into(),
            Value::Flag(b) => (*b).into(),
            Value::Text(t) => printable(t).into(),
            _ => serde_json::Value::Array(Vec::new()),
        })
    }
}

/// Field of config.json, field of GGUF.
const SIZES: [(&str, &str); 9] = [
    ("hidden_size", "llama.embedding_length"),
    ("intermediate_size", "llama.feed_forward_length"),
    ("num_hidden_layers", "llama.block_count"),
    ("num_attention_heads", "llama.attention.head_count"),
    ("num_key_value_heads", "llama.attention.head_count_kv"),
    ("head_dim", "llama.attention.key_length"),
    ("max_position_embeddings", "llama.context_length"),
    ("rms_norm_eps", "llama.attention.layer_norm_rms_epsilon"),
    ("rope_theta", "llama.rope.freq_base"),
];

/// The sizes, through the same checks as a `config.json`'s.
fn read_config(fields: &Fields, tensors: &[TensorInfo]) -> Result<Config> {
    let architecture = "general.architecture";
    if fields.text(architecture)? != Some("llama") {
        return Err(fields.unexpected(architecture, "llama, the only family that is read"));
    }
    for (key, most) in [("llama.expert_count", 0), ("split.count", 1)] {
        match fields.values.get(key) {
            None => {}
            Some(Value::Whole(n)) if *n <= most => {}
            Some(_) if most == 0 => return Err(fields.unexpected(key, "0, as experts are not supported")),
            Some(_) => return Err(fields.unexpected(key, "1: join the parts to one file first")),
        }
    }
    match fields.text("llama.rope.scaling.type")? {
        None | Some("none") => {}
        Some(_) => {
            let rule = "none, as scaled positions are not supported";
            return Err(fields.unexpected("llama.rope.scaling.type", rule));
        }
    }
    if !matches!(fields.values.get("llama.rope.scale_linear"), None | Some(Value::Number(1.0))) {
        return Err(fields.unexpected("llama.rope.scale_linear", "1, as scaled positions are not supported"));
    }
    let find = |name: &str| tensors.iter().find(|t| t.name == name);
    if find("rope_freqs.weight").is_some() {
        return Err(fields.error("rope_freqs.weight", "scaled positions are not supported"));
    }
    if let Some(bias) = tensors.iter().find(|t| t.name.ends_with(".bias")) {
        return Err(fields.error(&printable(&bias.name), "biases are not supported"));
    }
    let embedding = "token_embd.weight";
    let Some(embedding) = find(embedding).filter(|t| t.shape.len() == 2) else {
        return match find(embedding) {
            None => Err(Error::MissingTensor { names: embedding.into(), total: 1 }),
            Some(t) => Err(Error::Shape {
                what: format!("{}: tensor {embedding}", fields.file),
                expected: "[vocabulary, width]".into(),
                found: format!("{:?}", t.shape),
            }),
        };
    };

    let vocab_size = embedding.shape[0];
    let mut json = serde_json::json!({ "model_type": "llama", "vocab_size": vocab_size });
    for (own, key) in SIZES {
        if let Some(value) = fields.json(key) {
            json[own] = value;
        }
    }
    let limit = vocab_size.min(u32::MAX.into()) as usize;
    if let Some(id) = fields.id("tokenizer.ggml.bos_token_id", limit)? {
        json["bos_token_id"] = id.into();
    }
    let mut ends = Vec::new();
    for kind in ["eos", "eot", "eom"] {
        ends.extend(fields.id(&format!("tokenizer.ggml.{kind}_token_id"), limit)?);
    }
    ends.dedup();
    json["eos_token_id"] = ends.into();
    json["tie_word_embeddings"] = find("output.weight").is_none().into();
    let config = Config::from_bytes(fields.file, json.to_string().as_bytes()).map_err(|error| match error {
        Error::Config { file, pointer, rule } => {
            let own = SIZES.iter().find(|(own, _)| pointer.strip_prefix('/') == Some(own));
            let key = own.map_or(pointer.clone(), |(_, key)| (*key).into());
            let rule = SIZES.iter().fold(rule, |rule, (own, key)| rule.replace(own, key));
            Error::Config { file, pointer: key, rule }
        }
        other => other,
    })?;
    let head_dim = config.text.head_dim as u64;
    for key in ["llama.rope.dimension_count", "llama.attention.value_length"] {
        match fields.values.get(key) {
            None => {}
            Some(Value::Whole(n)) if *n == head_dim => {}
            Some(_) => return Err(fields.unexpected(key, &format!("the width of a head, {head_dim}"))),
        }
    }
    Ok(config)
}

fn read_tokenizer(fields: &mut Fields, vocab_size: usize) -> Result<Option<Tokenizer>> {
    let file = fields.file;
    let fail = |reason: String| Error::Tokenizer { file: file.into(), reason };
    let kind = match fields.text("tokenizer.ggml.model")? {
        None | Some("no_vocab" | "none") => return Ok(None),
        Some(kind) => kind.to_string(),
    };
    let pieces = match fields.values.remove("tokenizer.ggml.tokens") {
        Some(Value::Texts(pieces)) => pieces,
        _ => return Err(fail("tokenizer.ggml.tokens: expected a list of texts".into())),
    };
    if pieces.len() > vocab_size {
        return Err(fail(format!("{} pieces, but the embedding has {vocab_size} rows", pieces.len())));
    }
    let types = match fields.values.remove("tokenizer.ggml.token_type") {
        Some(Value::Wholes(types)) => types.iter().map(|&t| i32::try_from(t).unwrap_or(0)).collect(),
        None => vec![1; pieces.len()],
        Some(_) => return Err(fail("tokenizer.ggml.token_type: expected a list of whole numbers".into())),
    };
    let id = |name: &str| fields.id(&format!("tokenizer.ggml.{name}_token_id"), pieces.len());
    let (bos, eos, unknown) = (id("bos")?, id("eos")?, id("unknown")?);
    let add_bos = |default| fields.flag("tokenizer.ggml.add_bos_token", default);
    match kind.as_str() {
        "llama" => {
            let scores = match fields.values.get("tokenizer.ggml.scores") {
                Some(Value::Numbers(scores)) => scores,
                _ => return Err(fail("tokenizer.ggml.scores: expected a list of numbers".into())),
            };
            let options = SentencePieceOptions {
                bos_id: bos.unwrap_or(1),
                eos_id: eos.unwrap_or(2),
                unk_id: unknown.unwrap_or(0),
                add_dummy_prefix: fields.flag("tokenizer.ggml.add_space_prefix", true)?,
                remove_extra_whitespaces: fields.flag("tokenizer.ggml.remove_extra_whitespaces", false)?,
                byte_fallback: types.contains(&6),
            };
            let tokenizer = Tokenizer::from_sentencepiece_parts(file, pieces, scores, &types, options)?;
            Ok(Some(tokenizer.with_bos(add_bos(true)?)))
        }
        "gpt2" => {
            let merges = match fields.values.get("tokenizer.ggml.merges") {
                Some(Value::Texts(merges)) => merges,
                _ => return Err(fail("tokenizer.ggml.merges: expected a list of texts".into())),
            };
            let rule = fields.text("tokenizer.ggml.pre")?.unwrap_or("default");
            let add_bos = add_bos(rule.starts_with("llama"))?;
            let options = BytePairOptions { split: rule, bos_id: bos, eos_id: eos };
            let tokenizer = Tokenizer::from_byte_pairs(file, pieces, &types, merges, options)?;
            Ok(Some(tokenizer.with_bos(add_bos && bos.is_some())))
        }
        other => Err(fail(format!("a tokenizer of the kind {:?}; llama and gpt2 are read", printable(other)))),
    }
}
