import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Future;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Consume, transform, produce in transactions, for compat/transactions. Loop ADDRESS INPUT OUTPUT GROUP MEMBER [PROTOCOL]
 *
 * One producer per member; the group's generation fences (KIP-447). The lines it prints are those of compat/transactions/loop.ts.
 */
public class Loop {
  static final int RECORDS_MAX = 25;
  static final int ABORT_EVERY = 7;

  static volatile boolean isStopping = false;
  static int transactions = 0;

  public static void main(String[] args) throws Exception {
    String address = args[0], input = args[1], output = args[2], group = args[3], member = args[4];
    String protocol = args.length > 5 ? args[5] : "classic";
    Thread stop = new Thread(() -> {
      try {
        while (System.in.read() >= 0) {}
      } catch (java.io.IOException ignored) {
      }
      isStopping = true;
    });
    stop.setDaemon(true);
    stop.start();
    while (!isStopping) session(address, input, output, group, member, protocol);
    System.exit(0);
  }

  /** Until it is to stop, or the producer is of no use any more. */
  static void session(String address, String input, String output, String group, String member, String protocol) throws Exception {
    Map<String, Object> settings = new HashMap<>(Map.of(
        "bootstrap.servers", address, "group.id", group, "isolation.level", "read_committed", "enable.auto.commit", false,
        "auto.offset.reset", "earliest", "max.poll.records", RECORDS_MAX, "group.protocol", protocol,
        "reconnect.backoff.max.ms", 200));
    if (protocol.equals("classic")) settings.putAll(Map.of("session.timeout.ms", 6000, "heartbeat.interval.ms", 500));
    try (KafkaProducer<byte[], byte[]> producer = newProducer(address, member);
        KafkaConsumer<byte[], byte[]> consumer =
            new KafkaConsumer<>(settings, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
      consumer.subscribe(List.of(input));
      while (!isStopping) {
        ConsumerRecords<byte[], byte[]> records = consumer.poll(Duration.ofMillis(200));
        if (records.isEmpty()) continue;
        try {
          if (!transact(producer, consumer, records, output, member)) rewind(consumer, records);
        } catch (KafkaException | java.util.concurrent.ExecutionException error) {
          say("again " + error);
          producer.abortTransaction();
          rewind(consumer, records);
        }
      }
    } catch (KafkaException fatal) {
      say("again " + fatal);
    }
  }

  /** Whether it was committed. */
  static boolean transact(
      KafkaProducer<byte[], byte[]> producer, KafkaConsumer<byte[], byte[]> consumer, ConsumerRecords<byte[], byte[]> records,
      String output, String member) throws Exception {
    transactions++;
    producer.beginTransaction();
    List<Future<RecordMetadata>> sent = new ArrayList<>();
    Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
    for (ConsumerRecord<byte[], byte[]> record : records) {
      String value = new String(record.value()) + "|" + member + "." + transactions;
      sent.add(producer.send(new ProducerRecord<>(output, record.partition(), record.key(), value.getBytes())));
      offsets.put(new TopicPartition(record.topic(), record.partition()), new OffsetAndMetadata(record.offset() + 1));
    }
    producer.sendOffsetsToTransaction(offsets, consumer.groupMetadata());
    producer.flush();
    for (Future<RecordMetadata> each : sent) each.get();
    say("sent " + sent.size());
    if (transactions % ABORT_EVERY == 0) {
      producer.abortTransaction();
      say("aborted " + sent.size());
      return false;
    }
    say("ending");
    producer.commitTransaction();
    say("committed " + sent.size());
    return true;
  }

  static KafkaProducer<byte[], byte[]> newProducer(String address, String member) {
    Map<String, Object> settings = new HashMap<>(Map.of(
        "bootstrap.servers", address, "transactional.id", member, "transaction.timeout.ms", 20000, "linger.ms", 2,
        "reconnect.backoff.max.ms", 200));
    KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(settings, new ByteArraySerializer(), new ByteArraySerializer());
    producer.initTransactions();
    return producer;
  }

  /** To the first of these records, in the partitions that it still has. */
  static void rewind(KafkaConsumer<byte[], byte[]> consumer, ConsumerRecords<byte[], byte[]> records) {
    for (TopicPartition partition : records.partitions()) {
      if (consumer.assignment().contains(partition)) consumer.seek(partition, records.records(partition).get(0).offset());
    }
  }

  static void say(String line) {
    synchronized (System.out) {
      System.out.println(line);
      System.out.flush();
    }
  }
}
