import java.time.Duration;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.Producer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.processor.internals.DefaultKafkaClientSupplier;

/**
 * A Kafka Streams application with exactly_once_v2, for compat/transactions. StreamsLoop ADDRESS INPUT OUTPUT GROUP MEMBER SUMS STATE
 *
 *   INPUT ──→ map ──→ OUTPUT
 *              └────→ another key ──→ repartition topic ──→ count and sum by key (a store in RocksDB, its changelog compacted) ──→ SUMS
 *
 * It has no way of aborting a transaction; here and there the application throws instead, and Streams aborts, closes the thread and
 * starts another one. STATE: folder of the stores. The lines it prints are those of compat/transactions/loop.ts.
 */
public class StreamsLoop {
  static final int THROW_EVERY = 2000;
  static final int KEYS = 40;

  public static void main(String[] args) throws Exception {
    String address = args[0], input = args[1], output = args[2], group = args[3], member = args[4], sums = args[5];
    Properties settings = new Properties();
    settings.putAll(Map.of(
        "bootstrap.servers", address, "application.id", group, "client.id", member, "processing.guarantee", "exactly_once_v2",
        "state.dir", args[6], "commit.interval.ms", 100, "statestore.cache.max.bytes", 0, "num.stream.threads", 1,
        "consumer.session.timeout.ms", 6000, "consumer.heartbeat.interval.ms", 500));
    settings.putAll(Map.of(
        "replication.factor", 1, "reconnect.backoff.max.ms", 200, "consumer.auto.offset.reset", "earliest",
        "consumer.max.poll.records", 25, "producer.linger.ms", 2, "producer.transaction.timeout.ms", 20000));
    KafkaStreams streams = new KafkaStreams(topology(input, output, sums, member), settings, new Supplier());
    streams.setUncaughtExceptionHandler(error -> {
      String why = String.valueOf(error);
      for (Throwable cause = error.getCause(); cause != null; cause = cause.getCause()) why += " <- " + cause;
      say((why.contains("on purpose") ? "thrown " : "again ") + why.replaceAll("\\s+", " "));
      return StreamThreadExceptionResponse.REPLACE_THREAD;
    });
    streams.start();
    while (System.in.read() >= 0) {}
    boolean isClosed = streams.close(Duration.ofSeconds(30));
    System.exit(isClosed ? 0 : 1);
  }

  static org.apache.kafka.streams.Topology topology(String input, String output, String sums, String member) {
    AtomicInteger seen = new AtomicInteger();
    StreamsBuilder builder = new StreamsBuilder();
    KStream<String, String> records = builder.stream(input, Consumed.with(Serdes.String(), Serdes.String()));
    KStream<String, String> mapped = records.mapValues(value -> {
      if (seen.incrementAndGet() % THROW_EVERY == 0) throw new IllegalStateException("on purpose");
      return value + "|" + member;
    });
    mapped.to(output, Produced.with(Serdes.String(), Serdes.String())
        .withStreamPartitioner((topic, key, value, partitions) ->
            java.util.Optional.of(java.util.Set.of(Integer.parseInt(value.substring(0, value.indexOf(':')))))));
    records
        .selectKey((key, value) -> "k" + numberOf(value) % KEYS)
        .groupByKey(Grouped.with(Serdes.String(), Serdes.String()))
        .aggregate(() -> "0 0", (key, value, sum) -> {
          String[] parts = sum.split(" ");
          return (Long.parseLong(parts[0]) + 1) + " " + (Long.parseLong(parts[1]) + numberOf(value));
        }, Materialized.with(Serdes.String(), Serdes.String()))
        .toStream()
        .to(sums, Produced.with(Serdes.String(), Serdes.String()));
    return builder.build();
  }

  static long numberOf(String value) {
    return Long.parseLong(value.substring(value.indexOf(':') + 1));
  }

  /** Producers that say what they do. */
  static class Supplier extends DefaultKafkaClientSupplier {
    @Override
    public Producer<byte[], byte[]> getProducer(Map<String, Object> config) {
      return new KafkaProducer<>(config, new ByteArraySerializer(), new ByteArraySerializer()) {
        int sent = 0;

        @Override
        public java.util.concurrent.Future<RecordMetadata> send(
            ProducerRecord<byte[], byte[]> record, org.apache.kafka.clients.producer.Callback callback) {
          sent++;
          return super.send(record, callback);
        }

        @Override
        public void commitTransaction() {
          super.flush();
          say("sent " + sent);
          say("ending");
          super.commitTransaction();
          say("committed " + sent);
          sent = 0;
        }

        @Override
        public void abortTransaction() {
          super.abortTransaction();
          say("aborted " + sent);
          sent = 0;
        }
      };
    }
  }

  static void say(String line) {
    synchronized (System.out) {
      System.out.println(line);
      System.out.flush();
    }
  }
}
