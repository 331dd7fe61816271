//! Machines of others, compared with the truth that came with them.

use super::{machine, text};
use gpuferry::{host::Host, paste::Text};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The corpus, where the environment names it.
pub(crate) fn corpus() -> Option<PathBuf> {
    let corpus = std::env::var_os("GPUFERRY_CORPUS").map(PathBuf::from);
    if corpus.is_none() {
        eprintln!("GPUFERRY_CORPUS is not set: no machines of others are read");
    }
    corpus
}

/// The texts of a machine; archives are not for here.
pub(crate) fn texts(folder: &Path) -> Vec<Text> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.is_file() && !path.to_string_lossy().contains(".tar"));
    paths.sort();
    let read = |path: &PathBuf| {
        text(&path.file_name().unwrap().to_string_lossy(), &String::from_utf8_lossy(&fs::read(path).unwrap()))
    };
    paths.iter().map(read).collect()
}

/// What is known of the machines.
pub(crate) fn truths(corpus: &Path) -> Vec<Value> {
    let lines = fs::read_to_string(corpus.join("TRUTH-machines.jsonl")).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn differences(truth: &Value, host: &Host) -> Vec<String> {
    let mut found = Vec::new();
    let mut same = |what: &str, truth: String, ours: String| {
        if truth != ours {
            found.push(format!("{what}: {ours}, the truth says {truth}"));
        }
    };
    same("functions", truth["n_pci"].to_string(), host.functions.len().to_string());
    same("groups", truth["n_groups"].to_string(), host.groups.len().to_string());
    let gpus = truth["gpus"].as_array().unwrap();
    let names = |all: Vec<String>| all.join(" ");
    same(
        "gpus",
        names(
            gpus.iter()
                .map(|gpu| gpu["addr"].as_str().unwrap().to_owned())
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
        ),
        names(host.gpus.iter().map(|gpu| gpu.address.to_string()).collect()),
    );
    let mut told = Vec::new();
    for gpu in gpus {
        let address = gpu["addr"].as_str().unwrap();
        let Some(function) = host.function(address.parse().unwrap()) else { continue };
        if let Some(id) = gpu["id"].as_str() {
            told.push((
                format!("{address} id"),
                id.to_owned(),
                function.id().map_or_else(String::new, |id| id.to_string()),
            ));
        }
        if let Some(driver) = gpu["driver"].as_str() {
            told.push((
                format!("{address} driver"),
                driver.to_owned(),
                function.driver.clone().unwrap_or_default(),
            ));
        }
        let group = gpu["group"].as_u64();
        told.push((
            format!("{address} group"),
            format!("{group:?}"),
            format!("{:?}", function.iommu_group.map(u64::from)),
        ));
        let peers: BTreeSet<String> =
            gpu["peers"].as_array().unwrap().iter().map(|peer| peer.as_str().unwrap().to_owned()).collect();
        let group = function.iommu_group.and_then(|group| host.group(group));
        let ours: BTreeSet<String> = group
            .iter()
            .flat_map(|group| &group.functions)
            .filter(|own| **own != function.address)
            .map(ToString::to_string)
            .collect();
        told.push((format!("{address} peers"), format!("{peers:?}"), format!("{ours:?}")));
    }
    if let Some(boot) = truth["boot_vga"].as_str() {
        let ours = host.functions.iter().find(|function| function.boot_vga == Some(true));
        told.push((
            "boot display".into(),
            boot.to_owned(),
            ours.map_or_else(String::new, |ours| ours.address.to_string()),
        ));
    }
    if let Some(cmdline) = truth["cmdline"].as_str() {
        // The truth has the first 300 characters.
        let truth = cmdline.trim().to_owned();
        let ours = host.kernel.cmdline.clone().unwrap_or_default();
        let ours = ours.get(..truth.len()).map(str::to_owned).unwrap_or(ours);
        told.push(("command line".into(), truth, ours));
    }
    for (what, truth, ours) in told {
        same(&what, truth, ours);
    }
    found
}

/// Where the truth is wrong (its script reads neither `IOMMUGroup:` of `lspci -vmm` nor `IOMMU group` in the flags of
/// `lspci -v`, nor spaces instead of tabs, nor bridges that a log names by their buses alone): machine, what, what
/// it is, and the line that says so.
const WRONG: [(&str, &str, &str, &str); 34] = [
    ("isnap-ampere-one-m-banshee-12", "groups", "27", "lspci-vmmnD.txt:16 and 26 more"),
    ("isnap-ampere-one-x-banshee-8", "groups", "35", "lspci-vmmnD.txt:16 and more"),
    ("isnap-hp-pavilion-15-cs-3037nl", "groups", "18", "lspci-vmmnD.txt:9 and more"),
    ("isnap-hp-pavilion-15-cs-3037nl", "0000:00:02.0 group", "Some(0)", "lspci-vmmnD.txt:19"),
    ("isnap-hp-pavilion-15-cs-3037nl", "0000:06:00.0 group", "Some(14)", "lspci-vmmnD.txt:209"),
    ("isnap-hp-proliant-rl300-gen11-altra", "groups", "29", "lspci-vmmnD.txt:15 and more"),
    ("isnap-hp-proliant-rl300-gen11-altra", "0006:01:00.1 group", "Some(0)", "lspci-vmmnD.txt:269"),
    (
        "isnap-hp-proliant-rl300-gen11-altra",
        "0006:01:00.1 peers",
        r#"{"0006:01:00.2", "0006:01:00.4"}"#,
        "lspci-vmmnD.txt:269",
    ),
    ("isnap-hp-proliant-rl300-gen11-altra-max", "groups", "33", "lspci-vmmnD.txt:15 and more"),
    ("isnap-hp-proliant-rl300-gen11-altra-max", "0006:01:00.1 group", "Some(0)", "lspci-vmmnD.txt:313"),
    (
        "isnap-hp-proliant-rl300-gen11-altra-max",
        "0006:01:00.1 peers",
        r#"{"0006:01:00.2", "0006:01:00.4"}"#,
        "lspci-vmmnD.txt:313",
    ),
    ("isnap-intel-core-ultra-7-256v", "groups", "19", "lspci-vmmnD.txt:9 and more"),
    ("isnap-intel-core-ultra-7-256v", "0000:00:02.0 group", "Some(3)", "lspci-vmmnD.txt:19"),
    ("isnap-orange-pi-rv2", "functions", "3", "lspci-vmmnD.txt:1, 9 and 17: spaces after the keys"),
    ("isnap-xps13-7390", "groups", "21", "lspci-vmmnD.txt:9 and more"),
    ("isnap-xps13-7390", "0000:00:02.0 group", "Some(0)", "lspci-vmmnD.txt:19"),
    ("mail-5e08297d", "groups", "6", "lspci.txt:34 and more"),
    ("mail-5e08297d", "0030:03:00.0 group", "Some(4)", "lspci.txt:254"),
    ("mail-e4064852", "groups", "23", "lspci.txt:3 and more"),
    ("mail-e4064852", "0000:00:02.0 group", "Some(1)", "lspci.txt:10"),
    ("mail-bcae67ed", "groups", "30", "lspci.txt:3 and more"),
    ("mail-bcae67ed", "0000:00:02.0 group", "Some(0)", "lspci.txt:25"),
    ("mail-bcae67ed", "0000:01:00.0 group", "Some(2)", "lspci.txt:232"),
    ("mail-bcae67ed", "0000:01:00.0 peers", r#"{"0000:00:01.0"}"#, "lspci.txt:232"),
    ("mail-bcae67ed", "0000:09:00.0 group", "Some(23)", "lspci.txt:458"),
    ("mail-bcae67ed", "0000:09:00.0 peers", r#"{"0000:08:01.0"}"#, "lspci.txt:458"),
    ("mail-bcae67ed", "0000:2f:00.0 group", "Some(29)", "lspci.txt:660"),
    ("mail-bcae67ed", "0000:2f:00.0 peers", r#"{"0000:2e:01.0"}"#, "lspci.txt:660"),
    ("mail-88fc64bf", "groups", "34", "lspci.txt:14 and more"),
    ("mail-88fc64bf", "0000:0b:00.0 group", "Some(25)", "lspci.txt:446"),
    ("mail-2a18524f", "groups", "17", "lspci.txt:3 and more"),
    ("mail-2a18524f", "0000:00:02.0 group", "Some(1)", "lspci.txt:10"),
    (
        "mail-3bc45af8",
        "functions",
        "33",
        "dmesg.txt:58, 67, 73 and 82: bridges whose own lines are not in the log",
    ),
    (
        "mail-f8ae9249",
        "functions",
        "160",
        "dmesg.txt: lines of 00:02.2, 06:00.0 and others are garbled, their groups and buses are not",
    ),
];

#[test]
fn machines_of_others_are_seen_as_they_are() {
    let Some(corpus) = corpus() else { return };
    let mut wrong = Vec::new();
    let mut read = 0;
    for truth in truths(&corpus) {
        let name = truth["machine"].as_str().unwrap();
        let texts = texts(&corpus.join(name));
        if texts.is_empty() {
            continue;
        }
        let host = machine(&texts);
        read += 1;
        let short = name.trim_start_matches("machines/");
        let excused = |found: &String| {
            WRONG.iter().any(|(machine, what, is, _)| {
                *machine == short && found.starts_with(&format!("{what}: {is}, "))
            })
        };
        let differences: Vec<String> =
            differences(&truth, &host).into_iter().filter(|found| !excused(found)).collect();
        if !differences.is_empty() {
            wrong.push(format!("{name}:\n    {}\n", differences.join("\n    ")));
        }
    }
    eprintln!("{read} machines were read");
    assert!(wrong.is_empty(), "{}", wrong.concat());
}
