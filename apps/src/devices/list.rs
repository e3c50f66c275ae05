//! The list of NICs.

use std::process::ExitCode;

use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table, presets};
use serde::Serialize;

use super::setup::{NoShell, Setup};
use crate::cli::Failure;
use crate::doctor::machine::{Machine, Nic};
use crate::doctor::nic;
use crate::output::Colour;
use crate::session::print;

/// A network device on the PCI bus, as it is now.
#[derive(Debug, Serialize)]
struct Device {
    address: String,
    /// PCI vendor and device id, such as `1af4:1041`.
    id: String,
    driver: Option<String>,
    interfaces: Vec<String>,
    /// Of its interfaces, without link-local ones.
    ip_addresses: Vec<String>,
    iommu_group: Option<u32>,
    /// What else is in the group.
    group_members: Vec<String>,
    numa_node: Option<u32>,
    usable: Usable,
    /// Why, or what comes next.
    why: String,
}

/// Whether `vfio:` could open it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Usable {
    /// Now.
    Yes,
    /// After `bywash devices bind`.
    Bindable,
    /// Not as things are.
    No,
}

/// Prints all NICs.
pub(super) fn run(setup: &Setup, is_json: bool) -> Result<ExitCode, Failure> {
    let machine = Machine::at(setup.root());
    let devices: Result<Vec<Device>, NoShell> =
        machine.nics().iter().map(|nic| Device::new(&machine, setup, nic)).collect();
    let devices = devices.map_err(Failure::run)?;
    if is_json {
        let object = serde_json::json!({ "program": "devices", "devices": devices });
        print(&format!("{object}\n"));
    } else {
        print(&text(&devices, Colour::of(&std::io::stdout())));
    }
    Ok(ExitCode::SUCCESS)
}

impl Device {
    fn new(machine: &Machine, setup: &Setup, nic: &Nic) -> Result<Device, NoShell> {
        let (usable, why) = verdict(machine, setup, nic)?;
        let own = nic.address.to_string();
        let members = nic.group.map(|group| machine.host.members(group)).unwrap_or_default();
        let others =
            members.into_iter().filter(|member| member.address != own).map(|member| match member.driver {
                Some(driver) => format!("{} ({driver})", member.address),
                None => member.address,
            });
        Ok(Device {
            id: format!("{:04x}:{:04x}", nic.vendor, nic.device),
            driver: nic.driver.clone(),
            interfaces: nic.interfaces.clone(),
            ip_addresses: nic.interfaces.iter().flat_map(|interface| setup.addresses(interface)).collect(),
            iommu_group: nic.group,
            group_members: others.collect(),
            numa_node: machine.numa_node(&own),
            address: own,
            usable,
            why,
        })
    }
}

fn verdict(machine: &Machine, setup: &Setup, nic: &Nic) -> Result<(Usable, String), NoShell> {
    let address = nic.address;
    let problem = nic::problem(machine, nic);
    let Some(problem) = problem else { return Ok((Usable::Yes, format!("--port vfio:{address}"))) };
    // What is bound already, and what vfio: does not drive at all, needs no binding.
    if problem.is_foreign() || nic.driver.as_deref() == Some("vfio-pci") {
        return Ok((Usable::No, problem.found));
    }
    Ok(match setup.refusal(address)? {
        None => (Usable::Bindable, format!("{}bywash devices bind {address}", machine.sudo())),
        Some(reason) => (Usable::No, reason),
    })
}

/// A block for each NIC: the facts are too many for the columns of a table.
fn text(devices: &[Device], colour: Colour) -> String {
    if devices.is_empty() {
        return "no NIC on the PCI bus; bywash demo needs none\n".to_owned();
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    match colour {
        Colour::Ansi => table.enforce_styling(),
        Colour::Plain => table.force_no_tty(),
    };
    let titles = ["address", "interface", "driver", "group", "node", "usable"];
    table.set_header(titles.map(|title| Cell::new(title).add_attribute(Attribute::Bold).fg(Color::Cyan)));
    let or_none = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let number = |number: Option<u32>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    for device in devices {
        let (word, shade) = match device.usable {
            Usable::Yes => ("yes: ", Color::Green),
            Usable::Bindable => ("bind: ", Color::Yellow),
            Usable::No => ("no: ", Color::Red),
        };
        table.add_row([
            Cell::new(&device.address).add_attribute(Attribute::Bold),
            Cell::new(or_none(device.interfaces.join(" "))),
            Cell::new(device.driver.as_deref().unwrap_or("-")),
            Cell::new(number(device.iommu_group)),
            Cell::new(number(device.numa_node)),
            Cell::new(format!("{word}{}", device.why)).fg(shade),
        ]);
        let mut more = Vec::new();
        if !device.ip_addresses.is_empty() {
            more.push(device.ip_addresses.join(" "));
        }
        if !device.group_members.is_empty() {
            more.push(format!("with {} in its group", device.group_members.join(", ")));
        }
        if !more.is_empty() {
            let blank = || Cell::new("");
            table.add_row([blank(), blank(), blank(), blank(), blank(), Cell::new(more.join("; "))]);
        }
    }
    table.column_iter_mut().for_each(|column| {
        column.set_padding((0, 2));
    });
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}
