//! The software bill of materials of a program: CycloneDX 1.5 in JSON, the same bytes for the same commit.

use anyhow::Result;
use serde_json::{Value, json};

use super::Job;
use super::components::{Component, Id};
use super::package::Package;

pub(super) fn text(job: &Job<'_>, package: &Package, components: &[Component]) -> Result<String> {
    let (ours, others): (Vec<&Component>, Vec<&Component>) =
        components.iter().partition(|component| component.id.0 == package.name);
    let dependencies: Vec<Value> = ours
        .iter()
        .chain(&others)
        .map(|c| json!({ "ref": reference(&c.id), "dependsOn": c.needs.iter().map(reference).collect::<Vec<_>>() }))
        .collect();
    let bom = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": job.release.date("+%Y-%m-%dT%H:%M:%SZ")?,
            "component": {
                "type": "application",
                "bom-ref": ours.first().map(|c| reference(&c.id)),
                "name": package.name,
                "version": job.release.version,
                "description": package.summary,
                "licenses": [{ "expression": super::package::LICENCE }],
                "properties": [{ "name": "commit", "value": job.release.commit }],
            },
        },
        "components": others.iter().map(|c| component(c)).collect::<Vec<_>>(),
        "dependencies": dependencies,
    });
    Ok(serde_json::to_string_pretty(&bom)? + "\n")
}

fn component(component: &Component) -> Value {
    let (name, version) = &component.id;
    let mut value = json!({
        "type": "library",
        "bom-ref": reference(&component.id),
        "name": name,
        "version": version,
        "licenses": [{ "expression": component.licence }],
    });
    // Our own crates are in no registry.
    if let Some(checksum) = &component.checksum {
        value["purl"] = reference(&component.id).into();
        value["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
    }
    value
}

fn reference((name, version): &Id) -> String {
    format!("pkg:cargo/{name}@{}", version.replace('+', "%2B"))
}
