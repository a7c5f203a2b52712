//! `tailway topic list|describe|create|delete`, on any Kafka.

use anyhow::Result;
use tailway_client::admin::{ConfigResource, NewTopic};
use tailway_client::{Admin, OffsetSpec, TopicInfo};
use tailway_daemon::exit::Exit;

use crate::args::TopicCommand;
use crate::output::{count, say, table};
use crate::target;

pub(crate) async fn run(command: TopicCommand) -> Result<Exit> {
    match command {
        TopicCommand::List { internal, target } => {
            list(&Admin::new(target::client(&target)?), internal).await?;
        }
        TopicCommand::Describe { topic, target } => {
            describe(&Admin::new(target::client(&target)?), &topic).await?;
        }
        TopicCommand::Create { topic, partitions, replication_factor, configs, target } => {
            let admin = Admin::new(target::client(&target)?);
            let wanted = NewTopic {
                partitions,
                replication_factor,
                configs: configs.into_iter().collect(),
                ..NewTopic::new(topic)
            };
            let created = admin.create_topic(&wanted).await?;
            // Brokers before 2.4 do not tell how many.
            let size = u64::try_from(created.partitions)
                .map_or_else(|_| String::new(), |n| format!(" with {}", count(n, "partition")));
            say(&format!("created {}{size}", created.name))?;
        }
        TopicCommand::Delete { topic, target } => {
            let admin = Admin::new(target::client(&target)?);
            for deleted in admin.delete_topics(std::slice::from_ref(&topic)).await? {
                deleted?;
            }
            say(&format!("deleted {topic}"))?;
        }
    }
    Ok(Exit::Ok)
}

async fn list(admin: &Admin, internal: bool) -> Result<()> {
    let mut rows = vec![["TOPIC", "PARTITIONS", "REPLICAS"].map(str::to_owned).to_vec()];
    for topic in admin.list_topics().await? {
        if internal || !topic.internal {
            let replicas = topic.partitions.values().map(|p| p.replicas.len()).max().unwrap_or(0);
            rows.push(vec![
                topic.name.to_string(),
                topic.partitions.len().to_string(),
                replicas.to_string(),
            ]);
        }
    }
    print(&rows)
}

async fn describe(admin: &Admin, name: &str) -> Result<()> {
    let topic = admin.describe_topic(name).await?;
    let partitions = count(u64::try_from(topic.partitions.len())?, "partition");
    say(&format!("topic {}, id {}, {partitions}", topic.name, topic.topic_id))?;
    say("")?;
    print(&partition_rows(admin, &topic).await?)?;
    say("")?;
    let mut rows = vec![["CONFIG", "VALUE", "FROM"].map(str::to_owned).to_vec()];
    for entry in admin.describe_configs(&ConfigResource::Topic(name.to_owned())).await? {
        let value = entry.value.unwrap_or_else(|| "(secret)".to_owned());
        rows.push(vec![entry.name, value, entry.source.to_string()]);
    }
    print(&rows)
}

async fn partition_rows(admin: &Admin, topic: &TopicInfo) -> Result<Vec<Vec<String>>> {
    let heading = ["PARTITION", "LEADER", "EPOCH", "REPLICAS", "ISR", "FIRST", "NEXT"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    let earliest = admin.list_offsets(&topic.name, OffsetSpec::Earliest).await?;
    let latest = admin.list_offsets(&topic.name, OffsetSpec::Latest).await?;
    for (index, partition) in &topic.partitions {
        let offset = |listed: &[tailway_client::ListedOffset]| {
            let found = listed.iter().find(|listed| listed.partition.partition == *index);
            found.map_or_else(|| "?".to_owned(), |listed| listed.offset.to_string())
        };
        rows.push(vec![
            index.to_string(),
            if partition.leader < 0 { "none".to_owned() } else { partition.leader.to_string() },
            partition.leader_epoch.to_string(),
            ids(&partition.replicas),
            ids(&partition.isr),
            offset(&earliest),
            offset(&latest),
        ]);
    }
    Ok(rows)
}

fn ids(ids: &[i32]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn print(rows: &[Vec<String>]) -> Result<()> {
    table(rows).iter().try_for_each(|line| say(line))
}
