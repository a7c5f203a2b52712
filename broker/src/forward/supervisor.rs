//! Which partitions are forwarded here now: those of matching topics that this broker leads, and the dead letters of these.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tailway_daemon::tasks::Group;
use tailway_daemon::{Clock, Context, Stop};
use tailway_metadata::image::Topic;
use tailway_metadata::{ClusterImage, TopicId};

use super::dead_letters::DeadLetters;
use super::driver::Driver;
use super::lifetime::End;
use super::progress::Progress;
use super::reading::Source;
use super::report::{ForwardMetrics, Reports};
use super::sink::{Home, Place, Sink};
use crate::cluster::routes::NO_EPOCH_CHECK;
use crate::config::{DEAD_SUFFIX, SinkConfig};
use crate::server::Services;

/// Partitions that could not be opened are tried again after this.
const AGAIN: Duration = Duration::from_secs(5);
/// A lane holds at least so many bytes of records, however many lanes there are.
const BUFFER_BYTES_MIN: usize = 256 * 1024;

/// Sink, topic and partition.
type Key = (usize, Arc<str>, i32);

/// All forwarding of one broker.
pub(crate) struct Forwarders {
    sinks: Vec<Arc<Sink>>,
    services: Arc<Services>,
    progress: Progress,
    dead_letters: DeadLetters,
    reports: Reports,
    clock: Clock,
    lanes: BTreeMap<Key, Running>,
    tasks: Group,
}

struct Running {
    topic_id: TopicId,
    leader_epoch: i32,
    end: End,
}

/// A partition that is to be forwarded.
struct Wanted {
    topic_id: TopicId,
    leader_epoch: i32,
    /// Where its records belong, if these are dead letters.
    letters_of: Option<Arc<str>>,
}

impl Forwarders {
    /// Starts forwarding, if there are sinks.
    pub(crate) fn start(sinks: Vec<SinkConfig>, services: &Arc<Services>, context: &Context) {
        if sinks.is_empty() {
            return;
        }
        let reports = Reports::new(ForwardMetrics::register(&context.metrics));
        let sinks: Vec<Arc<Sink>> =
            sinks.into_iter().map(|config| Arc::new(Sink::new(config))).collect();
        publish(context, &sinks, &reports);
        let forwarders = Self {
            sinks,
            progress: Progress::new(services.groups.clone(), services.creator.clone()),
            dead_letters: DeadLetters::new(
                services.routes.clone(),
                services.creator.clone(),
                services.controller.clone(),
            ),
            services: Arc::clone(services),
            reports,
            clock: context.clock.clone(),
            lanes: BTreeMap::new(),
            tasks: context.tasks.group("forwarders"),
        };
        context.tasks.spawn_watched("forwarding", |stop| forwarders.run(stop));
    }

    async fn run(mut self, mut stop: Stop) {
        let mut images = self.services.view.follow();
        loop {
            let image = Arc::clone(&images.borrow_and_update());
            let complete = self.follow(&image);
            let again = async {
                if complete {
                    std::future::pending::<()>().await;
                }
                tokio::time::sleep(AGAIN).await;
            };
            tokio::select! {
                biased;
                () = stop.requested() => return,
                changed = images.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = again => {}
            }
        }
    }

    /// Makes the lanes what the image says; false if not all could be.
    fn follow(&mut self, image: &ClusterImage) -> bool {
        let mut wanted = BTreeMap::new();
        for topic in image.topics() {
            self.want(topic, &mut wanted);
        }
        for (key, lane) in &self.lanes {
            let same = wanted.get(key).is_some_and(|want: &Wanted| {
                want.topic_id == lane.topic_id && want.leader_epoch == lane.leader_epoch
            });
            if !same {
                lane.end.tell();
            }
        }
        self.lanes.retain(|key, lane| wanted.contains_key(key) || !lane.end.has_ended());
        let mut complete = true;
        let count = wanted.len();
        for (key, want) in wanted {
            let known = self.lanes.get(&key).is_some_and(|lane| {
                want.topic_id == lane.topic_id
                    && want.leader_epoch == lane.leader_epoch
                    && !lane.end.has_ended()
            });
            if !known {
                complete &= self.begin(image, key, want, count);
            }
        }
        // A lane may end by itself: its partition was closed and may be opened again.
        complete && self.lanes.values().all(|lane| !lane.end.has_ended())
    }

    fn want(&self, topic: &Topic, wanted: &mut BTreeMap<Key, Wanted>) {
        let letters_of: Option<Arc<str>> = topic.name.strip_suffix(DEAD_SUFFIX).map(Arc::from);
        for (at, sink) in self.sinks.iter().enumerate() {
            let filter = &sink.config.topics;
            let letters_of = if filter.matches(&topic.name) {
                None
            } else if let Some(of) = letters_of.clone().filter(|of| filter.matches(of)) {
                Some(of)
            } else {
                continue;
            };
            let me = self.services.view.me();
            for partition in topic.partitions.iter().filter(|p| p.leader == Some(me)) {
                let want = Wanted {
                    topic_id: topic.id,
                    leader_epoch: partition.leader_epoch.0,
                    letters_of: letters_of.clone(),
                };
                wanted.insert((at, Arc::clone(&topic.name), partition.index.0), want);
            }
        }
    }

    fn begin(&mut self, image: &ClusterImage, key: Key, want: Wanted, lanes: usize) -> bool {
        let (at, topic, partition) = key.clone();
        let routes = &self.services.routes;
        let Ok(door) = routes.partition(image, &topic, partition, NO_EPOCH_CHECK) else {
            return false;
        };
        let sink = Arc::clone(&self.sinks[at]);
        let name: Arc<str> = sink.config.name.as_str().into();
        let belongs = want.letters_of.clone().unwrap_or_else(|| Arc::clone(&topic));
        let topic_id = image.topic(&belongs).map_or(want.topic_id, |topic| topic.id);
        let partitions = image.topic(&belongs).map_or(1, |topic| topic.partitions.len());
        let home = Home {
            cluster: image.cluster_id.as_str().into(),
            partitions: i32::try_from(partitions).unwrap_or(i32::MAX),
            is_replay: want.letters_of.is_some(),
        };
        let place = Place { sink: Arc::clone(&name), topic: belongs, topic_id, partition };
        let source = Source {
            topic: Arc::clone(&topic),
            topic_id: want.topic_id,
            partition,
            replay_for: want.letters_of.map(|_| Arc::clone(&name)),
        };
        let limits = &sink.config.limits;
        let share = limits.memory / lanes.max(1);
        let buffer_bytes = share.clamp(BUFFER_BYTES_MIN, limits.batch_bytes * 4);
        let former = self.lanes.remove(&key).map(|lane| lane.end);
        let (end, beginning) = End::new(former);
        let driver = Driver {
            lane: Arc::new(sink.lane(place.clone(), home)),
            reporter: self.reports.reporter(&place, &topic),
            sink,
            place,
            source,
            door,
            progress: self.progress.clone(),
            dead_letters: self.dead_letters.clone(),
            clock: self.clock.clone(),
            buffer_bytes,
            seed: tailway_runtime::seed(),
            highest: Arc::default(),
        };
        let task = format!("{name} {topic}-{partition}");
        self.tasks.spawn(task, |stop| async move {
            let mut lifetime = beginning.live(stop);
            lifetime.begun().await;
            driver.run(lifetime).await;
        });
        let running = Running { topic_id: want.topic_id, leader_epoch: want.leader_epoch, end };
        self.lanes.insert(key, running);
        true
    }
}

fn publish(context: &Context, sinks: &[Arc<Sink>], reports: &Reports) {
    let (sinks, reports) = (sinks.to_vec(), reports.clone());
    context.status.section("sinks", move || {
        sinks.iter().map(|sink| describe(sink, &reports)).collect::<Value>()
    });
}

fn describe(sink: &Sink, reports: &Reports) -> Value {
    let config = &sink.config;
    let lanes: Vec<Value> = reports
        .of_sink(&config.name)
        .into_iter()
        .map(|(topic, partition, report)| {
            let mut lane = json!(report);
            lane["topic"] = json!(&*topic);
            lane["partition"] = json!(partition);
            lane
        })
        .collect();
    json!({
        "name": config.name,
        "type": config.target.kind(),
        "group": super::progress::group_of(&config.name),
        "requests_limit": sink.limiter.limit(),
        "partitions": lanes,
    })
}
