//! `tailway topic list|describe|create|delete`, on any Kafka.

use anyhow::Result;
use serde::Serialize;
use tailway_client::admin::{ConfigResource, NewTopic};
use tailway_client::{Admin, ListedOffset, OffsetSpec, TopicInfo};
use tailway_daemon::exit::Exit;

use crate::args::TopicCommand;
use crate::output::{Output, Row, count, table_of};
use crate::target;

/// One topic of a list.
#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    partitions: usize,
    replicas: usize,
    internal: bool,
}

/// One topic, whole.
#[derive(Debug, Serialize)]
struct Described {
    name: String,
    id: String,
    partitions: Vec<PartitionState>,
    configs: Vec<Setting>,
}

#[derive(Debug, Serialize)]
struct PartitionState {
    partition: i32,
    leader: Option<i32>,
    leader_epoch: i32,
    replicas: Vec<i32>,
    isr: Vec<i32>,
    /// The offset of the oldest record, and the one that the next record gets.
    first_offset: Option<i64>,
    next_offset: Option<i64>,
}

#[derive(Debug, Serialize)]
struct Setting {
    name: String,
    /// Not told of secrets.
    value: Option<String>,
    source: String,
}

/// A topic that was created or deleted.
#[derive(Debug, Serialize)]
struct Changed<'a> {
    name: &'a str,
    /// `null` where the broker does not tell (before 2.4), and of a topic that is gone.
    partitions: Option<u64>,
}

pub(crate) async fn run(command: TopicCommand, output: Output) -> Result<Exit> {
    match command {
        TopicCommand::List { internal, target } => {
            output.rows(&list(&Admin::new(target::client(&target)?), internal).await?)?;
        }
        TopicCommand::Describe { topic, target } => {
            let described = describe(&Admin::new(target::client(&target)?), &topic).await?;
            output.whole(&described, Described::lines)?;
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
            let partitions = u64::try_from(created.partitions).ok();
            let size =
                partitions.map_or_else(String::new, |n| format!(" with {}", count(n, "partition")));
            let changed = Changed { name: &created.name, partitions };
            output.line(&changed, format!("created {}{size}", created.name))?;
        }
        TopicCommand::Delete { topic, target } => {
            let admin = Admin::new(target::client(&target)?);
            for deleted in admin.delete_topics(std::slice::from_ref(&topic)).await? {
                deleted?;
            }
            let changed = Changed { name: &topic, partitions: None };
            output.line(&changed, format!("deleted {topic}"))?;
        }
    }
    Ok(Exit::Ok)
}

async fn list(admin: &Admin, internal: bool) -> Result<Vec<Listed>> {
    let topics = admin.list_topics().await?.into_iter();
    let shown = topics.filter(|topic| internal || !topic.internal);
    let listed = shown.map(|topic| Listed {
        name: topic.name.to_string(),
        partitions: topic.partitions.len(),
        replicas: topic.partitions.values().map(|p| p.replicas.len()).max().unwrap_or(0),
        internal: topic.internal,
    });
    Ok(listed.collect())
}

async fn describe(admin: &Admin, name: &str) -> Result<Described> {
    let topic = admin.describe_topic(name).await?;
    let configs = admin.describe_configs(&ConfigResource::Topic(name.to_owned())).await?;
    let setting = |entry: tailway_client::admin::ConfigEntry| Setting {
        name: entry.name,
        value: entry.value,
        source: entry.source.to_string(),
    };
    Ok(Described {
        name: topic.name.to_string(),
        id: topic.topic_id.to_string(),
        partitions: partitions(admin, &topic).await?,
        configs: configs.into_iter().map(setting).collect(),
    })
}

async fn partitions(admin: &Admin, topic: &TopicInfo) -> Result<Vec<PartitionState>> {
    let earliest = admin.list_offsets(&topic.name, OffsetSpec::Earliest).await?;
    let latest = admin.list_offsets(&topic.name, OffsetSpec::Latest).await?;
    let offset = |listed: &[ListedOffset], index: i32| {
        let found = listed.iter().find(|listed| listed.partition.partition == index);
        found.map(|listed| listed.offset)
    };
    let rows = topic.partitions.iter().map(|(index, partition)| PartitionState {
        partition: *index,
        leader: Some(partition.leader).filter(|leader| *leader >= 0),
        leader_epoch: partition.leader_epoch,
        replicas: partition.replicas.clone(),
        isr: partition.isr.clone(),
        first_offset: offset(&earliest, *index),
        next_offset: offset(&latest, *index),
    });
    Ok(rows.collect())
}

impl Described {
    fn lines(&self) -> Vec<String> {
        let partitions = count(self.partitions.len() as u64, "partition");
        let mut lines =
            vec![format!("topic {}, id {}, {partitions}", self.name, self.id), String::new()];
        lines.extend(table_of(&self.partitions));
        lines.push(String::new());
        lines.extend(table_of(&self.configs));
        lines
    }
}

impl Row for Listed {
    const HEADING: &'static [&'static str] = &["TOPIC", "PARTITIONS", "REPLICAS"];

    fn cells(&self) -> Vec<String> {
        vec![self.name.clone(), self.partitions.to_string(), self.replicas.to_string()]
    }
}

impl Row for PartitionState {
    const HEADING: &'static [&'static str] =
        &["PARTITION", "LEADER", "EPOCH", "REPLICAS", "ISR", "FIRST", "NEXT"];

    fn cells(&self) -> Vec<String> {
        let or = |number: Option<i64>, none: &str| {
            number.map_or_else(|| none.to_owned(), |number| number.to_string())
        };
        vec![
            self.partition.to_string(),
            or(self.leader.map(i64::from), "none"),
            self.leader_epoch.to_string(),
            ids(&self.replicas),
            ids(&self.isr),
            or(self.first_offset, "?"),
            or(self.next_offset, "?"),
        ]
    }
}

impl Row for Setting {
    const HEADING: &'static [&'static str] = &["CONFIG", "VALUE", "FROM"];

    fn cells(&self) -> Vec<String> {
        let value = self.value.clone().unwrap_or_else(|| "(secret)".to_owned());
        vec![self.name.clone(), value, self.source.clone()]
    }
}

fn ids(ids: &[i32]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::documented;

    fn described() -> Described {
        let partition = |partition, leader| PartitionState {
            partition,
            leader,
            leader_epoch: 3,
            replicas: vec![1, 2],
            isr: vec![1],
            first_offset: Some(0),
            next_offset: leader.map(|_| 7),
        };
        let setting = |name: &str, value: Option<&str>| Setting {
            name: name.to_owned(),
            value: value.map(str::to_owned),
            source: "topic".to_owned(),
        };
        Described {
            name: "logs".to_owned(),
            id: "abc".to_owned(),
            partitions: vec![partition(0, Some(1)), partition(1, None)],
            configs: vec![setting("retention.ms", Some("5")), setting("password", None)],
        }
    }

    #[test]
    fn a_topic_is_described_by_two_tables() {
        let expected = [
            "topic logs, id abc, 2 partitions",
            "",
            "PARTITION  LEADER  EPOCH  REPLICAS  ISR  FIRST  NEXT",
            "0          1       3      1,2       1    0      7",
            "1          none    3      1,2       1    0      ?",
            "",
            "CONFIG        VALUE     FROM",
            "retention.ms  5         topic",
            "password      (secret)  topic",
        ];
        assert_eq!(described().lines(), expected);
    }

    #[test]
    fn topics_are_listed_a_row_each() {
        let listed =
            Listed { name: "logs".to_owned(), partitions: 3, replicas: 1, internal: false };
        let expected = ["TOPIC  PARTITIONS  REPLICAS", "logs   3           1"];
        assert_eq!(table_of(&[listed]), expected);
    }

    #[test]
    fn fields_are_those_that_are_documented() {
        let listed = Listed { name: String::new(), partitions: 1, replicas: 1, internal: false };
        documented("topic list", &listed);
        documented("topic describe", &described());
        documented("topic create", &Changed { name: "a", partitions: None });
        documented("topic delete", &Changed { name: "a", partitions: None });
    }
}
