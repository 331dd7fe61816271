//! `gpuferry detach`: the host gives cards up, vfio-pci takes them.

use super::{
    Context,
    consent::may_stop,
    follow::{asked, can_ask, carry_out, need_root, nothing_hangs, this_machine},
    print,
};
use crate::{
    error::{Error, Result, Status},
    handover::{
        client::new_op,
        preflight, record,
        request::{Request, Way, Wishes},
        snapshot::Card,
        stop,
        worker::{held, reset_of},
    },
    host::{self, Host},
    pci::Address,
    plan::live::{self, Goal, LivePlan},
};
use clap::Args;
use std::time::Duration;

/// Take cards away from the host, so that a guest can have them; undone by `reattach`.
#[derive(Debug, Args)]
pub struct Detach {
    /// The cards: any of their functions, as 0000:01:00.0.
    #[arg(required = true, value_name = "ADDR")]
    pub addresses: Vec<Address>,
    /// Bring it home by itself after this long, unless a guest has taken it or `gpuferry keep` was said.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86400))]
    pub timeout: Option<u64>,
    /// How long one write may take before it counts as hanging.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub patience: u64,
    /// Who may be stopped for it without being asked about: a unit, `display-manager`, `session:USER`,
    /// `process:NAME`, or `all`.
    #[arg(long, value_name = "WHO")]
    pub stop: Vec<String>,
    #[command(flatten)]
    pub wishes: Wishes,
    /// Ask before each stage.
    #[arg(long)]
    pub step: bool,
    /// Show what would be done, and do nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask, even when the screen will go dark.
    #[arg(long, short)]
    pub yes: bool,
}

impl Detach {
    /// Hands them over, one after the other.
    pub fn run(&self, context: &Context) -> Result<Status> {
        let machine = this_machine(context, "detach")?;
        nothing_hangs(&machine)?;
        let host = host::observe_for_hand_over(&machine);
        let cards = Card::find_all(&host, &self.addresses)?;
        let mut plans = Vec::new();
        for card in &cards {
            // The plan first: a card that is lent already needs nothing, whatever shares its group.
            let stops = stop::stops(&machine, &held(&machine, card));
            let reset = reset_of(&machine, &host, card, &self.wishes);
            let plan = live::live(&host, Goal::Lend(card, &stops, reset.as_ref()));
            if plan.as_ref().map_or(true, |plan| !plan.stages.is_empty()) {
                if let Some(refusal) = preflight::refuse_host(&host, card, &cards) {
                    return Err(refusal);
                }
            }
            plans.push(plan?);
        }
        if self.dry_run {
            return cards
                .iter()
                .zip(&plans)
                .try_for_each(|(card, plan)| show(card, plan))
                .map(|()| Status::Done);
        }
        need_root("detach")?;
        let away: Vec<Card> = cards
            .iter()
            .zip(&plans)
            .filter(|(_, plan)| !plan.stages.is_empty())
            .map(|(card, _)| card.clone())
            .collect();
        let stop = may_stop(context, &machine, &away, &self.stop)?;
        self.warn(context, &host, &cards, &plans)?;
        let addresses: Vec<_> = cards.iter().map(|card| card.address).collect();
        for card in &cards {
            let limit = Duration::from_secs(self.patience);
            let request = Request {
                together: addresses.iter().copied().filter(|other| *other != card.address).collect(),
                step: self.step,
                stop: stop.clone(),
                home_after: self.timeout.map(Duration::from_secs),
                wishes: self.wishes.clone(),
                ..Request::new(new_op(&machine), Way::Lend, card.address, limit)
            };
            let title = format!("detach {} ({})", card.address, card.name);
            carry_out(context, &machine, host.systemd, &request, &title)?;
        }
        Ok(Status::Done)
    }

    /// What the owner may not expect; asked where somebody can be.
    fn warn(&self, context: &Context, host: &Host, cards: &[Card], plans: &[LivePlan]) -> Result<()> {
        let off = host.kernel.cmdline.as_deref().unwrap_or("");
        if off.split_whitespace().any(|word| word == "gpuferry.off=1") && !context.json {
            print(
                " gpuferry.off=1 is on the kernel command line: nothing starts by itself, this you asked for\n",
            )?;
        }
        let lost = cards.iter().any(|card| host::loses_console(host, &card.functions));
        if lost && plans.iter().any(|plan| !plan.stages.is_empty()) && !context.json {
            print(
                " the text console draws into what the firmware set up: it does not come back before a reboot\n",
            )?;
        }
        let screens = host.framebuffers.iter().filter_map(|fb| fb.function);
        let dark: Vec<_> =
            screens.filter(|fb| cards.iter().any(|card| card.functions.contains(fb))).collect();
        let all = host.framebuffers.iter().all(|fb| fb.function.is_some_and(|f| dark.contains(&f)));
        if dark.is_empty() || !all || plans.iter().all(|plan| plan.stages.is_empty()) {
            return Ok(());
        }
        if !context.json {
            let until =
                if lost { "the card is home and a driver draws on it" } else { "the card comes home" };
            print(&format!(" the host's only screen is on this card: it will be dark until {until}\n"))?;
            print(&second_way_in(host))?;
        }
        if !self.yes && !self.step && can_ask(context) && !asked(" go on")? {
            return Err(Error::failed("stopped; nothing was changed"));
        }
        Ok(())
    }
}

/// How to reach the machine while its screen is dark.
fn second_way_in(host: &Host) -> String {
    let interfaces = host.network.iter().flatten().filter(|interface| interface.up);
    let addresses: Vec<&str> = interfaces
        .flat_map(|interface| &interface.addresses)
        .map(|address| address.split('/').next().unwrap_or(address))
        .collect();
    match (host.ssh, addresses.is_empty()) {
        (Some(true), false) => format!(" meanwhile it can be reached by SSH at {}\n", addresses.join(", ")),
        (Some(true), true) => " an SSH server runs, but no network interface is up\n".to_owned(),
        (Some(false), _) => " there is no second way in: no SSH server listens here. Lend it on trial with \
                             --timeout 60, or install one first (apt install openssh-server)\n"
            .to_owned(),
        (None, _) => String::new(),
    }
}

fn show(card: &Card, plan: &LivePlan) -> Result<()> {
    print(&format!(" detach {} ({}) would do\n", card.address, card.name))?;
    if plan.stages.is_empty() {
        print("  nothing: it is lent already\n")?;
    }
    for stage in &plan.stages {
        print(&format!("  {:<10} {}\n", stage.label, stage.text))?;
        for step in &stage.steps {
            print(&format!("             {}\n", step.describe()))?;
        }
    }
    let known = record::LOG;
    print(&format!(
        " every write goes to {known} before it is made; undone by gpuferry reattach {}\n",
        card.address
    ))
}
