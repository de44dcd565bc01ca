//! Configurations of engines: what is meant, and what contradicts itself.

use espalier_engines::{EngineConfig, EngineKind, Provider, ProviderKind};
use proptest::prelude::*;

fn refusal(text: &str) -> String {
    match toml::from_str::<EngineConfig>(text) {
        Ok(config) => config.validate().expect_err(text).to_string(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_configuration_says_engine_providers_and_library() {
    let text = "engine = \"onnxruntime\"\nproviders = [\"openvino:device_type=AUTO:NPU,CPU:precision=FP16\", \"cpu\"]\nlibrary = \"lib\"";
    let config: EngineConfig = toml::from_str(text).unwrap();
    config.validate().unwrap();
    assert_eq!((config.engine, config.library), (EngineKind::OnnxRuntime, Some("lib".into())));
    let names: Vec<String> = config.providers.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["openvino:device_type=AUTO:NPU,CPU:precision=FP16", "cpu"]);
    assert_eq!(config.providers[0].kind(), ProviderKind::OpenVino);
    let default: EngineConfig = toml::from_str("").unwrap();
    default.validate().unwrap();
    assert_eq!(default, EngineConfig::default());
}

#[test]
fn contradictions_are_named() {
    let check = |text: &str, want: &str| {
        let said = refusal(text);
        assert!(said.contains(want), "{text}: {said}");
    };
    check("engine = \"tflite\"", "`espalier` or `onnxruntime`");
    check("engin = \"espalier\"", "unknown field `engin`");
    check("providers = [\"cpu\"]", "`providers` is for engine = \"onnxruntime\"");
    check("library = \"x\"", "`library` is for engine = \"onnxruntime\"");
    let with = |providers: &str| format!("engine = \"onnxruntime\"\nproviders = [{providers}]");
    check(&with("\"npu\""), "it should be one of cpu, openvino, cuda");
    check(&with("\"cuda\", \"cuda:device_id=1\""), "cuda is named twice");
    check(&with("\"cpu\", \"openvino\""), "name `cpu` last");
    check(&with("\"cpu:threads=2\""), "the CPU has no options");
    check(&with("\"cuda:device_id\""), "should be KEY=VALUE");
    check(&with("\"cuda:=1\""), "should be KEY=VALUE");
    check(&with("\"cuda:a=\\u0000\""), "NUL");
    check(&with(&format!("\"qnn{}\"", ":a=1".repeat(65))), "at most 64 options");
    check(&with(&format!("\"qnn:a={}\"", "1".repeat(5000))), "at most 4096 characters");
}

proptest! {
    /// Whatever is taken for a provider says the same again.
    #[test]
fn providers_are_what_they_say(text in "(cpu|openvino|qnn|[a-z]{0,4})(:[a-zé=:, ]{0,6}){0,3}") {
        if let Ok(provider) = text.parse::<Provider>() {
            prop_assert_eq!(provider.to_string(), text);
        }
    }
}
