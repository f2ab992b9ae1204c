//! `rung.toml`: what is accepted can be written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rung_bundle::{Manifest, check_variable, parse_manifest};
use rung_proto::encoding;

fuzz_target!(|text: &str| {
    match parse_manifest(text) {
        Ok(manifest) => {
            check(&manifest);
            let toml = as_toml(&manifest);
            assert_eq!(parse_manifest(&toml).as_ref(), Ok(&manifest), "{toml}");
            let packed = encoding::encode(&manifest);
            assert_eq!(encoding::decode::<Manifest>(&packed).ok().as_ref(), Some(&manifest));
            let json = serde_json::to_string(&manifest).expect("a manifest is JSON");
            assert_eq!(serde_json::from_str::<Manifest>(&json).ok().as_ref(), Some(&manifest));
        }
        Err(error) => {
            assert!(!error.message.is_empty());
            let lines = 1 + text.bytes().filter(|byte| *byte == b'\n').count();
            assert!(error.line.is_none_or(|line| (1..=lines).contains(&line)), "{error}");
        }
    }
});

fn check(manifest: &Manifest) {
    assert!((1..=63).contains(&manifest.name.len()));
    assert!(!manifest.name.contains(['/', '.', '\0']));
    assert!(manifest.domain.len() <= 253 && !manifest.domain.ends_with('.'));
    assert!(manifest.domain.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b)));
    assert!(manifest.web.instances.min <= manifest.web.instances.max);
    assert!(manifest.web.instances.max <= 1000 && manifest.web.drain_timeout_ms <= 3_600_000);
    assert!(!manifest.web.command.contains(['\n', '\0']));
    for (name, value) in &manifest.env {
        assert!(check_variable(name, value).is_ok());
        assert!(!name.contains('=') && !value.contains('\0'));
    }
}

fn as_toml(manifest: &Manifest) -> String {
    let web = &manifest.web;
    let mut section = toml::Table::new();
    section.insert("command".into(), web.command.clone().into());
    section.insert("instances".into(), web.instances.to_string().into());
    section.insert("allow_public_listen".into(), web.allow_public_listen.into());
    section.insert("drain_timeout".into(), format!("{}ms", web.drain_timeout_ms).into());
    if let Some(health) = &web.health {
        section.insert("health".into(), health.clone().into());
    }
    if let Some(test) = &web.test {
        section.insert("test".into(), test.clone().into());
    }
    let mut table = toml::Table::new();
    table.insert("name".into(), manifest.name.clone().into());
    table.insert("domain".into(), manifest.domain.clone().into());
    table.insert("web".into(), section.into());
    let env = manifest.env.iter().map(|(name, value)| (name.clone(), value.clone().into()));
    table.insert("env".into(), env.collect::<toml::Table>().into());
    toml::to_string(&table).expect("a table of strings is TOML")
}
