//! `config.json`: what is read from good ones, and that every bad one is an error that names the field.

use crate::common::engine::{Config, Error, Folder, Target};
use crate::common::{base_config, code, fixture, open};
use serde_json::{Value, json};

#[test]
fn configs_of_the_fixtures() {
    let config = |folder| open(Folder::open(fixture(folder)).unwrap()).unwrap().config;
    let base = config("qllama-base");
    assert!(base.vision.is_none() && base.clip.is_none() && base.quantization.is_none());
    assert_eq!((base.text.num_query_token, base.text.cross_attention_frequency), (96, 2));
    assert_eq!((base.text.vision_hidden_size, base.text.head_dim, base.text.num_key_value_heads), (3200, 16, 4));
    assert_eq!((&base.text.eos_token_ids[..], base.text.bos_token_id, base.prefix()), (&[2][..], 1, ""));
    assert_eq!(config("qllama-ragged").text.vision_hidden_size, 101);
    assert_eq!(config("qllama-ragged").text.cross_attention_frequency, 3);

    let whole = config("internvl-tiny");
    let (vision, clip) = (whole.vision.clone().unwrap(), whole.clip.clone().unwrap());
    assert_eq!((vision.hidden_size, vision.num_attention_heads, vision.patch_size), (160, 5, 14));
    assert!(vision.qk_normalization && !vision.qkv_bias);
    assert_eq!((clip.clip_embed_dim, clip.attn_pool_num_heads), (32, 16));
    assert!(whole.text.cross_attention && whole.text.cross_attends(2) && !whole.text.cross_attends(3));
    assert_eq!((whole.text.rope_theta, whole.text.rms_norm_eps, whole.prefix()), (1e4, 1e-6, "qllama."));

    for (folder, bits, group, symmetric) in [
        ("qllama-w4-g32-sym", 4, Some(32), true),
        ("qllama-w4-g64-asym", 4, Some(64), false),
        ("qllama-w8-channel", 8, None, true),
    ] {
        let quantization = config(folder).quantization.unwrap();
        let scheme = quantization.scheme_for("model.layers.0.mlp.up_proj", "Linear").unwrap();
        assert_eq!((scheme.num_bits, scheme.group_size, scheme.symmetric), (bits, group, symmetric));
        assert_eq!(quantization.scheme_for("lm_head", "Linear"), None);
        assert_eq!(quantization.scheme_for("model.embed_tokens", "Embedding"), None);
    }
}

/// Where the config with `value` in place of what stands at `pointer` (`None`: without it) is wrong.
fn fault(config: &Value, pointer: &str, value: Option<Value>) -> String {
    let mut changed = config.clone();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = changed.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    match value {
        Some(value) => parent.insert(key.into(), value),
        None => parent.remove(key),
    };
    match Config::from_bytes("config.json", &serde_json::to_vec(&changed).unwrap()) {
        Ok(_) => "ok".into(),
        Err(Error::Config { pointer, .. }) => pointer,
        Err(other) => panic!("{other:?}"),
    }
}

fn config_of(folder: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixture(folder).join("config.json")).unwrap()).unwrap()
}

#[test]
fn every_size_in_a_config_is_checked() {
    let sizes = ["hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size"];
    let text = ["vocab_size", "max_position_embeddings"];
    let vision = ["image_size", "patch_size"];
    let mut fields = Vec::new();
    for (parent, keys) in [("/vision_config", &vision), ("/qllama_config", &text)] {
        fields.extend(sizes.iter().chain(keys.iter()).map(|key| ("internvl-tiny", format!("{parent}/{key}"), true)));
    }
    fields.extend(sizes.iter().chain(&text).map(|key| ("qllama-base", format!("/{key}"), true)));
    for key in ["num_query_token", "cross_attention_frequency", "clip_embed_dim", "attn_pool_num_heads"] {
        fields.push(("internvl-tiny", format!("/{key}"), false));
    }
    for (folder, pointer, needed) in fields {
        let config = config_of(folder);
        let two_31 = json!(1u64 << 31);
        let bad = [json!(null), json!("64"), json!(-64), json!(0), json!(64.0), json!(6.5), json!(true), json!([64])];
        let large = [two_31, json!(u32::MAX), json!(1u64 << 63), json!(u64::MAX), json!(1e30)];
        for value in bad.iter().chain(&large) {
            assert_eq!(fault(&config, &pointer, Some(value.clone())), pointer, "{value}");
        }
        assert_eq!(fault(&config, &pointer, None), if needed { &pointer } else { "ok" });
    }
}

#[test]
fn rules_of_single_fields_of_a_decoder() {
    let base = config_of("qllama-base");
    for (pointer, value, at) in [
        ("/num_hidden_layers", json!(1_000_000_000), ""),
        ("/hidden_size", json!(63), ""),
        ("/hidden_size", json!(60), ""), // heads of 15
        ("/num_key_value_heads", json!(3), ""),
        ("/num_key_value_heads", json!(0), ""),
        ("/num_key_value_heads", json!(8), ""),
        ("/num_key_value_heads", json!(2), "ok"),
        ("/num_key_value_heads", json!(null), "ok"),
        ("/head_dim", json!(15), ""),
        ("/head_dim", json!(8), ""), // beside cross-attention
        ("/head_dim", json!(16), "ok"),
        ("/rms_norm_eps", json!(0), ""),
        ("/rms_norm_eps", json!(-1e-6), ""),
        ("/rms_norm_eps", json!(1e-60), ""),
        ("/rms_norm_eps", json!(1e60), ""),
        ("/rms_norm_eps", json!("1e-6"), ""),
        ("/rms_norm_eps", json!(null), ""),
        ("/rope_theta", json!(0), ""),
        ("/rope_theta", json!(-1.0), ""),
        ("/rope_theta", json!(1e39), ""),
        ("/rope_theta", json!("10000"), ""),
        ("/rope_theta", json!(500000), "ok"),
        ("/rope_scaling", json!({"type": "linear", "factor": 2.0}), "/rope_scaling/type"),
        ("/rope_scaling", json!({"rope_type": "llama3"}), "/rope_scaling/rope_type"),
        ("/rope_scaling", json!({}), "/rope_scaling/type"),
        ("/rope_scaling", json!("yarn"), ""),
        ("/rope_scaling", json!({"rope_type": "default"}), "ok"),
        ("/rope_scaling", json!(null), "ok"),
        ("/rope_parameters", json!({"rope_type": "yarn"}), "/rope_parameters/rope_type"),
        ("/rope_parameters", json!({"rope_theta": 0, "rope_type": "default"}), "/rope_parameters/rope_theta"),
        ("/rope_parameters", json!({"rope_theta": 1e5, "rope_type": "default"}), "ok"),
        ("/hidden_act", json!("relu"), ""),
        ("/hidden_act", json!(1), ""),
        ("/model_type", json!("gpt2"), ""),
        ("/model_type", json!(7), ""),
        ("/architectures", json!(["GPT2LMHeadModel"]), ""),
        ("/architectures", json!("LlamaForCausalLM"), ""),
        ("/architectures", json!([1]), ""),
        ("/attention_bias", json!(true), ""),
        ("/mlp_bias", json!(true), ""),
        ("/tie_word_embeddings", json!("yes"), ""),
        ("/tie_word_embeddings", json!(null), ""),
        ("/tie_word_embeddings", json!(1), ""),
        ("/vision_hidden_size", json!(0), ""),
        ("/eos_token_id", json!([2, 3]), "ok"),
        ("/eos_token_id", json!(null), "ok"),
        ("/eos_token_id", json!(320), ""),
        ("/eos_token_id", json!([2, 320]), ""),
        ("/eos_token_id", json!([2, -1]), ""),
        ("/eos_token_id", json!("2"), ""),
        ("/bos_token_id", json!(320), ""),
        ("/bos_token_id", json!(-1), ""),
        ("/pad_token_id", json!(1.5), ""),
        ("/pad_token_id", json!(null), "ok"),
        ("/num_query_token", json!(513), "/max_position_embeddings"),
        ("/vision_config", json!({}), "/qllama_config"),
        ("/quantization_config", json!({"quant_method": "gptq"}), "/quantization_config/quant_method"),
    ] {
        let at = if at.is_empty() { pointer } else { at };
        assert_eq!(fault(&base, pointer, Some(value.clone())), at, "{pointer} {value}");
    }
}

#[test]
fn rules_of_single_fields_of_a_whole_model() {
    let whole = config_of("internvl-tiny");
    for (pointer, value, at) in [
        ("/vision_config/hidden_size", json!(161), ""),
        ("/vision_config/patch_size", json!(57), "/vision_config/image_size"),
        ("/vision_config/layer_norm_eps", json!(0.0), ""),
        ("/vision_config/qkv_bias", json!(0), ""),
        ("/vision_config/qk_normalization", json!(null), ""),
        ("/vision_config/hidden_act", json!("quick_gelu"), ""),
        ("/vision_config/norm_type", json!("layer_norm"), ""),
        ("/vision_config/num_channels", json!(1), ""),
        ("/vision_config", json!(null), ""),
        ("/vision_config", json!([]), ""),
        ("/qllama_config", json!(null), ""),
        ("/qllama_config/vision_hidden_size", json!(161), ""),
        ("/qllama_config/vision_hidden_size", json!(null), "ok"),
        ("/qllama_config/num_query_token", json!(-1), "ok"), // the top level goes before it
        ("/force_image_size", json!(7), ""),
        ("/force_image_size", json!("28"), ""),
        ("/force_image_size", json!(28), "ok"),
        ("/attn_pool_num_heads", json!(7), ""),
        ("/attn_pool_num_heads", json!(5), ""), // divides the vision rows only
        ("/use_qllama_lora", json!(16), ""),
        ("/model_type", json!("internvl_chat"), ""),
        ("/architectures", json!(["LlamaForCausalLM"]), ""),
    ] {
        let at = if at.is_empty() { pointer } else { at };
        assert_eq!(fault(&whole, pointer, Some(value.clone())), at, "{pointer} {value}");
    }
    assert_eq!(fault(&whole, "/vision_config", None), "/vision_config");
    assert_eq!(fault(&whole, "/qllama_config", None), "/qllama_config");
    assert_eq!(fault(&whole, "/vision_config/layer_norm_eps", None), "/vision_config/layer_norm_eps");
    assert_eq!(fault(&whole, "/qllama_config/rms_norm_eps", None), "/qllama_config/rms_norm_eps");
}

#[test]
fn defaults_and_overrides() {
    let read = |config: &Value| Config::from_bytes("config.json", &serde_json::to_vec(config).unwrap()).unwrap();
    let mut whole = config_of("internvl-tiny");
    for key in ["num_query_token", "cross_attention_frequency", "clip_embed_dim", "attn_pool_num_heads"] {
        whole.as_object_mut().unwrap().remove(key);
    }
    let config = read(&whole);
    assert_eq!((config.text.num_query_token, config.text.cross_attention_frequency), (96, 2));
    assert_eq!(config.clip.map(|c| (c.clip_embed_dim, c.attn_pool_num_heads)), Some((768, 16)));
    whole["qllama_config"]["num_query_token"] = json!(8);
    whole["qllama_config"]["cross_attention_frequency"] = json!(3);
    whole["qllama_config"]["rope_theta"] = json!(77.0);
    let config = read(&whole);
    assert_eq!((config.text.num_query_token, config.text.cross_attention_frequency), (8, 3));
    assert_eq!(config.text.rope_theta, 10000.0);
    whole["num_query_token"] = json!(9);
    whole["cross_attention_frequency"] = json!(1);
    whole["qllama_config"].as_object_mut().unwrap().remove("vision_hidden_size");
    let config = read(&whole);
    assert_eq!((config.text.num_query_token, config.text.cross_attention_frequency), (9, 1));
    assert_eq!(config.text.vision_hidden_size, 160);
    let mut base = config_of("qllama-base");
    base["eos_token_id"] = json!([2, 7]);
    base["tie_word_embeddings"] = json!(true);
    let text = read(&base).text;
    assert_eq!((text.eos_token_ids, text.tie_word_embeddings), (vec![2, 7], true));
}

#[test]
fn a_config_that_is_not_json_or_has_a_field_twice() {
    let read = |text: &str| Config::from_bytes("config.json", text.as_bytes());
    for bad in ["", "{", "nonsense", "{\"hidden_size\": NaN}", "{\"hidden_size\": Infinity}", "\u{feff}{}", "{} {}"] {
        assert_eq!(code(read(bad)), "E_CONFIG", "{bad}");
    }
    assert_eq!(code(read(&"[".repeat(100_000))), "E_CONFIG");
    assert_eq!(code(Config::from_bytes("config.json", &[b'{', 0xff])), "E_CONFIG");
    for bad in ["[]", "null", "3", "{}"] {
        assert_eq!(code(read(bad)), "E_CONFIG", "{bad}");
    }
    let base = String::from_utf8(base_config()).unwrap();
    let Err(Error::Config { pointer, rule, .. }) = read(&base.replacen('{', "{\"vocab_size\": 320,", 1)) else {
        panic!()
    };
    assert_eq!((pointer.as_str(), rule.as_str()), ("/vocab_size", "the field appears twice"));
    let nested = base.replacen('{', r#"{"other": [{"a/b": 1, "a/b": 1}],"#, 1);
    let Err(Error::Config { pointer, .. }) = read(&nested) else { panic!() };
    assert_eq!(pointer, "/other/0/a~1b");
    let bytes = std::fs::read(fixture("internvl-tiny").join("config.json")).unwrap();
    for length in 0..bytes.len() - 1 {
        assert_eq!(code(Config::from_bytes("config.json", &bytes[..length])), "E_CONFIG");
    }
}

#[test]
fn quantization_of_other_methods_is_refused() {
    let config = config_of("qllama-w4-g64-asym");
    let group = "/quantization_config/config_groups/group_0";
    for (pointer, value, ok) in [
        ("/quant_method", json!("awq"), false),
        ("/quant_method", json!(null), false),
        ("/format", json!("int-quantized"), false),
        ("/quantization_status", json!("frozen"), false),
        ("/kv_cache_scheme", json!({"num_bits": 8}), false),
        ("/sparsity_config", json!({"format": "sparse-24-bitmask"}), false),
        ("/sparsity_config", json!({"format": "dense"}), true),
        ("/ignore", json!("lm_head"), false),
        ("/ignore", json!(["re:("]), false),
        ("/ignore", json!(["re:.*cross_attn.*", "lm_head"]), true),
        ("/ignore", json!(null), true),
        ("/config_groups", json!({}), false),
        ("/config_groups", json!(null), false),
        ("G/targets", json!([]), false),
        ("G/format", json!("float-quantized"), false),
        ("G/format", json!(null), true),
        ("G/input_activations", json!({"num_bits": 8}), false),
        ("G/weights", json!(null), false),
        ("G/weights/num_bits", json!(3), false),
        ("G/weights/num_bits", json!(5), false),
        ("G/weights/num_bits", json!(u64::MAX), false),
        ("G/weights/num_bits", json!(8), true),
        ("G/weights/type", json!("float"), false),
        ("G/weights/symmetric", json!("no"), false),
        ("G/weights/strategy", json!("tensor"), false),
        ("G/weights/strategy", json!("channel"), false), // with a group size
        ("G/weights/group_size", json!(0), false),
        ("G/weights/group_size", json!(null), false),
        ("G/weights/group_size", json!(u64::MAX), false),
        ("G/weights/group_size", json!(48), true), // whether it divides is seen at each matrix
        ("G/weights/dynamic", json!(true), false),
        ("G/weights/actorder", json!("group"), false),
        ("G/weights/actorder", json!("static"), true),
    ] {
        let pointer = match pointer.strip_prefix('G') {
            Some(rest) => format!("{group}{rest}"),
            None => format!("/quantization_config{pointer}"),
        };
        let found = fault(&config, &pointer, Some(value.clone()));
        if ok {
            assert_eq!(found, "ok", "{pointer} {value}");
        } else {
            // A strategy that does not go with the group size is reported at the group size.
            let at = [pointer.clone(), format!("{pointer}/format"), format!("{group}/weights/group_size")];
            assert!(at.contains(&found), "{pointer} {value}: {found}");
        }
    }
}

#[test]
fn ignore_lists_know_names_classes_and_patterns() {
    let mut config = config_of("qllama-w8-channel");
    config["quantization_config"]["ignore"] = json!(["lm_head", "re:.*\\.layers\\.[12]\\.cross_attn\\."]);
    let weights = json!({"num_bits": 4, "type": "int", "symmetric": true, "strategy": "group", "group_size": 32});
    config["quantization_config"]["config_groups"]["group_1"] =
        json!({"targets": ["re:.*mlp", "model.layers.0.self_attn.q_proj"], "weights": weights});
    let config = Config::from_bytes("config.json", &serde_json::to_vec(&config).unwrap()).unwrap();
    let quantization = config.quantization.unwrap();
    assert!(matches!(&quantization.ignore[..], [Target::Name(_), Target::Pattern(_)]));
    let bits = |name: &str| quantization.scheme_for(name, "Linear").map(|scheme| scheme.num_bits);
    assert_eq!(bits("lm_head"), None);
    assert_eq!(bits("model.layers.1.cross_attn.q_proj"), None);
    assert_eq!(bits("model.layers.0.cross_attn.q_proj"), Some(8));
    assert_eq!(bits("model.layers.0.mlp.up_proj"), Some(4));
    assert_eq!(bits("model.layers.0.self_attn.q_proj"), Some(4));
    assert_eq!(bits("model.layers.0.self_attn.k_proj"), Some(8));
}
