//! `gpuferry keep`: a card that was detached on trial stays lent.

use super::{
    Context,
    follow::{need_root, this_machine},
    print,
};
use crate::{
    error::{Result, Status},
    handover::{record, snapshot::Card, unused},
    host,
    pci::Address,
};
use clap::Args;

/// Keep cards that were detached with --timeout: they do not go home by themselves.
#[derive(Debug, Args)]
pub struct Keep {
    /// The cards: any of their functions, as 0000:01:00.0.
    #[arg(required = true, value_name = "ADDR")]
    pub addresses: Vec<Address>,
}

impl Keep {
    /// Keeps them.
    pub fn run(&self, context: &Context) -> Result<Status> {
        let machine = this_machine(context, "keep")?;
        need_root("keep")?;
        let cards = Card::find_all(&host::observe_for_hand_over(&machine), &self.addresses)?;
        let mut kept = Vec::new();
        for card in &cards {
            let address = card.address;
            if record::state(&machine, address)?.is_none() {
                return Err(unused::not_lent(address));
            }
            let was = unused::keep(&machine, address)?;
            kept.push(serde_json::json!({ "address": address, "was_on_trial": was }));
            if !context.json {
                let text = if was { "stays lent" } else { "was not on trial: it stays lent" };
                print(&format!(" {address} {text}, until   gpuferry reattach {address}\n"))?;
            }
        }
        if context.json {
            print(&format!("{}\n", serde_json::json!({ "schema": 1, "kept": kept })))?;
        }
        Ok(Status::Done)
    }
}
