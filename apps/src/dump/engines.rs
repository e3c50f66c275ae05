//! Which engines run, and which of them has a port.

use std::process::ExitCode;

use engine::control::{Folder, runtime_folder};
use serde_json::{Value, json};

use crate::cli::Failure;
use crate::engines::{Engine, none, running};

/// Prints them.
pub(super) fn list(as_json: bool) -> Result<ExitCode, Failure> {
    let (engines, forbidden) = running()?;
    let text = if as_json {
        let engines: Vec<Value> = engines.into_iter().map(|(_, engine)| stripped(engine)).collect();
        format!("{}\n", json!({ "program": "dump", "engines": engines }))
    } else if engines.is_empty() {
        "no engine of this user runs here\n".to_owned()
    } else {
        engines.iter().map(|(folder, engine)| paragraph(folder, engine)).collect()
    };
    crate::session::print(&text);
    for name in forbidden {
        eprintln!("engine {name} belongs to another user");
    }
    Ok(ExitCode::SUCCESS)
}

/// A heading, and a line for each port.
fn paragraph(folder: &Folder, engine: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut lines = format!("{}  {}, process {}\n", folder.name(), text(&engine["program"]), engine["pid"]);
    for port in engine["ports"].as_array().into_iter().flatten() {
        let (name, driver, link) = (text(&port["name"]), text(&port["driver"]), text(&port["link"]));
        lines.push_str(&format!("  {}  {name}  {driver}, link {link}\n", port["port"]));
    }
    lines
}

/// Without what concerns the protocol.
fn stripped(mut engine: Value) -> Value {
    if let Value::Object(fields) = &mut engine {
        fields.retain(|name, _| !matches!(name.as_str(), "bywash" | "ok"));
    }
    engine
}

/// The engine that was named, or the only one with this port.
pub(super) fn find(name: Option<&str>, port: &str) -> Result<Folder, Failure> {
    if let Some(name) = name {
        let parent = runtime_folder().map_err(Failure::run)?;
        return Folder::new(&parent, name).map_err(Failure::usage);
    }
    let (engines, forbidden) = running()?;
    let number = port.parse::<u64>().ok();
    let has_port = |engine: &Value| {
        let mut ports = engine["ports"].as_array().into_iter().flatten();
        ports.any(|known| known["name"] == port || (number.is_some() && known["port"].as_u64() == number))
    };
    let names = |engines: &[&Engine]| {
        engines.iter().map(|(folder, _)| folder.name().to_owned()).collect::<Vec<_>>().join(", ")
    };
    let with_port: Vec<&Engine> = engines.iter().filter(|(_, engine)| has_port(engine)).collect();
    match with_port[..] {
        [(folder, _)] => Ok(folder.clone()),
        [] if engines.is_empty() => Err(none(&forbidden)),
        [] => Err(Failure::run(format!("no engine has a port {port:?}; `bywash dump` lists them"))),
        _ => Err(Failure::usage(format!(
            "{} have a port {port:?}; say which with --engine NAME",
            names(&with_port)
        ))),
    }
}
