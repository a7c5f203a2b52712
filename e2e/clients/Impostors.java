import java.io.FileReader;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.admin.Admin;

/** Kafka's Java client asks each of several servers who they are, at once: PROPERTIES ADDRESS... Whether it believes them, they note. */
class Impostors {
    public static void main(String[] args) throws Exception {
        var settings = new Properties();
        try (var file = new FileReader(args[0])) {
            settings.load(file);
        }
        List<Thread> threads = new ArrayList<>();
        for (var address : List.of(args).subList(1, args.length)) {
            var own = new Properties();
            own.putAll(settings);
            own.put("bootstrap.servers", address);
            own.put("default.api.timeout.ms", "5000");
            own.put("request.timeout.ms", "4000");
            var thread = new Thread(() -> {
                try (var admin = Admin.create(own)) {
                    admin.describeCluster().clusterId().get(6, TimeUnit.SECONDS);
                } catch (Exception expected) {
                    // As it should be; by which end, the server knows.
                }
            });
            thread.start();
            threads.add(thread);
        }
        for (var thread : threads) {
            thread.join();
        }
    }
}
