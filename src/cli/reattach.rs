//! `gpuferry reattach`: cards come home, from wherever they are.

use super::{
    Context,
    follow::{carry_out, need_root, nothing_hangs, this_machine},
};
use crate::{
    error::{Result, Status},
    handover::{
        client::new_op,
        preflight, record,
        request::{Request, Way, Wishes},
        snapshot::Card,
        worker::held,
    },
    host,
    pci::Address,
};
use clap::Args;
use std::time::Duration;

/// Bring cards home: drivers, screen and consoles as they were. Also finishes what was interrupted.
#[derive(Debug, Args)]
pub struct Reattach {
    /// The cards: any of their functions, as 0000:01:00.0.
    #[arg(required = true, value_name = "ADDR")]
    pub addresses: Vec<Address>,
    /// How long one write may take before it counts as hanging.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub patience: u64,
    /// Do not put the text consoles back, nor the firmware's frame buffer: on some machines that crashes the host. The
    /// kernel does it by itself where the host's driver makes a frame buffer.
    #[arg(long)]
    pub leave_consoles: bool,
    /// Reboot the host when a write to the card hangs, and goes on to for so long (sync, then sysrq): what was not
    /// saved is lost.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(10..=86400))]
    pub reboot_when_hung: Option<u64>,
    /// Ask before each stage.
    #[arg(long)]
    pub step: bool,
}

impl Reattach {
    /// Brings them home, one after the other.
    pub fn run(&self, context: &Context) -> Result<Status> {
        let machine = this_machine(context, "reattach")?;
        nothing_hangs(&machine)?;
        let host = host::observe_for_hand_over(&machine);
        let mut cards: Vec<Card> = Vec::new();
        for address in &self.addresses {
            // A card that has moved or has gone from the bus is known from when it was lent.
            let known = record::snapshot_of(&machine, &host, *address).ok().flatten();
            let found = known.map_or_else(|| Card::find(&host, *address), |snapshot| Ok(snapshot.card))?;
            if !cards.contains(&found) {
                cards.push(found);
            }
        }
        need_root("reattach")?;
        for card in &cards {
            // What is on record may name more functions than the card shows now.
            let known = record::snapshot(&machine, card.address)?
                .map_or_else(|| card.clone(), |known| known.card_now(&host));
            if let Some(refusal) = preflight::refuse_home(&known, &held(&machine, &known)) {
                return Err(refusal);
            }
        }
        for card in &cards {
            let limit = Duration::from_secs(self.patience);
            let request = Request {
                step: self.step,
                wishes: Wishes {
                    leave_consoles: self.leave_consoles,
                    reset_method: None,
                    reboot_when_hung: self.reboot_when_hung,
                },
                ..Request::new(new_op(&machine), Way::Home, card.address, limit)
            };
            let title = format!("reattach {} ({})", card.address, card.name);
            carry_out(context, &machine, host.systemd, &request, &title)?;
        }
        Ok(Status::Done)
    }
}
