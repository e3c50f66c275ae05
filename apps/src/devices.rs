//! `bywash devices`: the NICs of this machine, what keeps each from being a `vfio:` port, and taking it from the kernel.
//!
//! `hugepage-setup.sh` is the one implementation of binding, of its refusals and of undoing: it must work before there is
//! a `bywash` (in an image, in a rescue shell), so the command is made of the script and not the other way round. The very
//! file is part of this program; nothing is searched for at run time. Whether a NIC that the kernel drives may be taken is
//! asked of the script too (`--dry-run`), so the list never says otherwise than `bind` does.

mod list;
mod setup;

use std::process::ExitCode;

use crate::cli::Failure;
use setup::Setup;

/// What `bywash devices` was asked.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct Args {
    /// What to do; without it, NICs are listed
    #[command(subcommand)]
    action: Option<Action>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Take NICs from the kernel and give them to vfio-pci (as root)
    Bind(Bind),
    /// Give NICs back to the kernel drivers they came from (as root)
    Unbind(Unbind),
    /// Put back all that was changed, newest first (as root); also hugepages and limits of hugepage-setup.sh
    Undo(Undo),
}

#[derive(Debug, clap::Args)]
struct Bind {
    /// PCI addresses, such as 0000:03:00.0; all NICs of an IOMMU group in one call
    #[arg(required = true, value_name = "ADDR")]
    addresses: Vec<String>,
    /// Let this user open them
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Let that user lock memory without limit
    #[arg(long, requires = "user")]
    memlock: bool,
    /// Take a NIC that is in use: this may cut the machine off
    #[arg(long)]
    force: bool,
    /// Print what would be done; changes nothing, needs no root
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, clap::Args)]
struct Unbind {
    /// PCI addresses
    #[arg(required = true, value_name = "ADDR")]
    addresses: Vec<String>,
    /// Also one that a process holds open: waits until it closes it
    #[arg(long)]
    force: bool,
    /// Print what would be done; changes nothing, needs no root
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, clap::Args)]
struct Undo {
    /// Print what would be done; changes nothing, needs no root
    #[arg(long)]
    dry_run: bool,
}

const EXAMPLES: &str = "\
Examples:
  bywash devices                                       which NICs there are, and which could be a vfio: port
  sudo bywash devices bind 0000:03:00.0 --user \"$USER\"
  bywash l2fwd --port vfio:0000:03:00.0
  sudo bywash devices unbind 0000:03:00.0
  sudo bywash devices undo

Bindings are gone after a reboot.

Exit codes: 0 done; 1 could not be done; 2 wrong usage; 3 refused because the NIC is in use (--force overrides); 4 needs root.";

/// Lists, binds, unbinds or undoes.
///
/// # Errors
/// [`Failure::Run`] if no shell can be started; what the script refuses is its exit code.
pub fn run(args: &Args) -> Result<ExitCode, Failure> {
    let setup = Setup::of_environment();
    let mut typed: Vec<String> = Vec::new();
    match &args.action {
        None => return list::run(&setup, args.json),
        Some(Action::Bind(bind)) => {
            bind.addresses.iter().for_each(|address| typed.extend(["--bind".to_owned(), address.clone()]));
            typed.extend(bind.user.iter().flat_map(|user| ["--user".to_owned(), user.clone()]));
            switches(
                &mut typed,
                [("--memlock", bind.memlock), ("--force", bind.force), ("--dry-run", bind.dry_run)],
            );
        }
        Some(Action::Unbind(unbind)) => {
            unbind
                .addresses
                .iter()
                .for_each(|address| typed.extend(["--unbind".to_owned(), address.clone()]));
            switches(&mut typed, [("--force", unbind.force), ("--dry-run", unbind.dry_run)]);
        }
        Some(Action::Undo(undo)) => {
            typed.push("--undo".to_owned());
            switches(&mut typed, [("--dry-run", undo.dry_run)]);
        }
    }
    setup.run(&typed).map_err(Failure::run)
}

fn switches<const N: usize>(typed: &mut Vec<String>, switches: [(&str, bool); N]) {
    typed.extend(switches.into_iter().filter(|(_, is_on)| *is_on).map(|(name, _)| name.to_owned()));
}
