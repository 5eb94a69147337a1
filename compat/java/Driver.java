import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.GroupListing;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * The steps of compat/driver.ts with Kafka's own Java client: one JSON request per line on standard input, one answer per line on
 * standard output. Producers are as they come: idempotent, acks=all.
 *
 * Arguments: address of the server, then settings for members of groups (key=value).
 */
public class Driver {
  static final Duration SHORT = Duration.ofMillis(50);
  static final long READ_MS_MAX = 30_000;
  static final ObjectMapper json = new ObjectMapper();

  final String address;
  final Map<String, String> memberSettings = new HashMap<>();
  final Map<String, Member> members = new HashMap<>();
  final Admin admin;

  public static void main(String[] args) throws Exception {
    Driver driver = new Driver(args);
    PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
    BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line = in.readLine(); line != null; line = in.readLine()) {
      ObjectNode answer = json.createObjectNode();
      try {
        answer.set("result", json.valueToTree(driver.step(json.readTree(line))));
      } catch (Exception error) {
        Throwable cause = error instanceof ExecutionException ? error.getCause() : error;
        answer.put("error", cause.getClass().getSimpleName() + ": " + cause.getMessage());
      }
      out.println(answer);
    }
    System.exit(0); // members that did not leave have threads
  }

  Driver(String[] args) {
    address = args[0];
    for (int i = 1; i < args.length; i++) {
      String[] pair = args[i].split("=", 2);
      memberSettings.put(pair[0], pair[1]);
    }
    admin = Admin.create(settings(Map.of()));
  }

  Properties settings(Map<String, String> more) {
    Properties properties = new Properties();
    properties.put("bootstrap.servers", address);
    properties.putAll(more);
    return properties;
  }

  Object step(JsonNode request) throws Exception {
    String topic = request.path("topic").asText();
    String member = request.path("member").asText();
    switch (request.get("op").asText()) {
      case "create":
        admin.createTopics(List.of(new NewTopic(topic, request.get("partitions").asInt(), (short) 1))).all().get();
        return null;
      case "produce":
        return produce(topic, request.get("codec").asText(), request.get("records"));
      case "read":
        return read(topic, request.get("partitions").asInt(), request.get("count").asInt());
      case "readAt":
        return readAt(new TopicPartition(topic, request.get("partition").asInt()), request.get("timestamp").asLong());
      case "topics":
        return admin.listTopics().names().get();
      case "groups":
        return admin.listGroups().all().get().stream().map(GroupListing::groupId).toList();
      case "remove":
        admin.deleteTopics(List.of(topic)).all().get();
        return null;
      case "join":
        members.put(member, new Member(request.get("group").asText(), topic, request.get("protocol").asText()));
        return null;
      case "assigned":
        return members.get(member).assigned();
      case "received":
        return members.get(member).received();
      case "commit":
        members.get(member).commit();
        return null;
      case "leave":
        members.remove(member).leave();
        return null;
      default:
        throw new IllegalArgumentException("no such step");
    }
  }

  Object produce(String topic, String codec, JsonNode records) throws Exception {
    Properties properties =
        settings(Map.of("compression.type", codec, "delivery.timeout.ms", "20000", "request.timeout.ms", "10000", "max.block.ms", "3000", "max.request.size", "4000000"));
    try (var producer = new KafkaProducer<>(properties, new ByteArraySerializer(), new ByteArraySerializer())) {
      List<Future<RecordMetadata>> sent = new ArrayList<>();
      for (JsonNode record : records) {
        List<Header> headers = new ArrayList<>();
        for (JsonNode header : record.get("headers")) {
          headers.add(new RecordHeader(header.get(0).asText(), bytes(header.get(1))));
        }
        Long timestamp = record.has("timestamp") ? record.get("timestamp").asLong() : null;
        sent.add(
            producer.send(
                new ProducerRecord<>(
                    topic,
                    record.get("partition").asInt(),
                    timestamp,
                    bytes(record.get("key")),
                    bytes(record.get("value")),
                    headers)));
      }
      for (Future<RecordMetadata> each : sent) each.get();
    }
    return null;
  }

  KafkaConsumer<byte[], byte[]> consumer(Map<String, String> more) {
    Properties properties = settings(more);
    properties.put("auto.offset.reset", "earliest");
    properties.put("enable.auto.commit", "false");
    return new KafkaConsumer<>(properties, new ByteArrayDeserializer(), new ByteArrayDeserializer());
  }

  Object read(String topic, int partitions, int count) {
    try (var consumer = consumer(Map.of())) {
      List<TopicPartition> all = new ArrayList<>();
      for (int i = 0; i < partitions; i++) all.add(new TopicPartition(topic, i));
      consumer.assign(all);
      consumer.seekToBeginning(all);
      return take(consumer, count);
    }
  }

  Object readAt(TopicPartition partition, long timestamp) {
    try (var consumer = consumer(Map.of())) {
      consumer.assign(List.of(partition));
      consumer.seek(partition, consumer.offsetsForTimes(Map.of(partition, timestamp)).get(partition).offset());
      return take(consumer, 1).get(0);
    }
  }

  static ArrayNode take(KafkaConsumer<byte[], byte[]> consumer, int count) {
    ArrayNode found = json.createArrayNode();
    long deadline = System.currentTimeMillis() + READ_MS_MAX;
    while (found.size() < count) {
      if (System.currentTimeMillis() > deadline) throw new IllegalStateException(found.size() + " of " + count + " records came");
      for (var record : consumer.poll(SHORT)) found.add(described(record));
    }
    return found;
  }

  static ObjectNode described(ConsumerRecord<byte[], byte[]> record) {
    ObjectNode node = json.createObjectNode();
    node.put("partition", record.partition());
    node.put("offset", record.offset());
    node.put("timestamp", record.timestamp());
    node.put("key", text(record.key()));
    node.put("value", text(record.value()));
    ArrayNode headers = node.putArray("headers");
    for (Header header : record.headers()) headers.addArray().add(header.key()).add(text(header.value()));
    return node;
  }

  static String text(byte[] bytes) {
    return bytes == null ? null : Base64.getEncoder().encodeToString(bytes);
  }

  static byte[] bytes(JsonNode text) {
    return text.isNull() ? null : Base64.getDecoder().decode(text.asText());
  }

  /** A consumer in a thread of its own. A consumer is for one thread at a time: whoever uses it holds its lock. */
  class Member {
    final KafkaConsumer<byte[], byte[]> consumer;
    final List<String> received = new ArrayList<>();
    final Thread thread;
    volatile boolean leaving = false;
    volatile RuntimeException failure = null;

    Member(String group, String topic, String protocol) {
      Map<String, String> settings = new HashMap<>(memberSettings);
      settings.put("group.id", group);
      settings.put("group.protocol", protocol);
      if (protocol.equals("classic")) {
        settings.put("session.timeout.ms", "6000");
        settings.put("heartbeat.interval.ms", "300");
      }
      consumer = consumer(settings);
      consumer.subscribe(List.of(topic));
      thread = new Thread(this::run);
      thread.setDaemon(true);
      thread.start();
    }

    void run() {
      try {
        while (!leaving) {
          synchronized (this) {
            for (var record : consumer.poll(SHORT)) received.add(record.partition() + ":" + record.offset());
          }
          Thread.sleep(5); // lets others have the lock
        }
      } catch (InterruptedException error) {
        throw new IllegalStateException(error);
      } catch (RuntimeException error) {
        failure = error;
      }
    }

    synchronized Collection<Integer> assigned() {
      check();
      return consumer.assignment().stream().map(TopicPartition::partition).sorted().toList();
    }

    synchronized List<String> received() {
      check();
      return List.copyOf(received);
    }

    synchronized void commit() {
      check();
      consumer.commitSync();
    }

    void leave() throws InterruptedException {
      leaving = true;
      thread.join();
      check();
      consumer.close();
    }

    void check() {
      if (failure != null) throw failure;
    }
  }
}
