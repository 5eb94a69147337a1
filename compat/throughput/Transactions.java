import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Properties;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Transactions of the Java client, one after the other, for compat/throughput.
 *
 * Transactions ADDRESS TOPIC PARTITIONS COUNT PAYLOADS SIZE [key=value …]
 *
 * COUNT transactions of SIZE records; all records of a transaction go to one partition, the next to the next. Prints `COUNT SECONDS`.
 */
public final class Transactions {
  public static void main(String[] args) throws Exception {
    int partitions = Integer.parseInt(args[2]);
    int count = Integer.parseInt(args[3]);
    int size = Integer.parseInt(args[5]);
    List<byte[]> values = Files.readAllLines(Path.of(args[4])).stream().map(String::getBytes).toList();
    Properties properties = new Properties();
    properties.put("bootstrap.servers", args[0]);
    for (int i = 6; i < args.length; i++) {
      String[] pair = args[i].split("=", 2);
      properties.put(pair[0], pair[1]);
    }
    var serializer = new ByteArraySerializer();
    try (var producer = new KafkaProducer<byte[], byte[]>(properties, serializer, serializer)) {
      producer.initTransactions();
      long start = System.nanoTime();
      for (int i = 0; i < count; i++) {
        producer.beginTransaction();
        for (int j = 0; j < size; j++) {
          producer.send(new ProducerRecord<>(args[1], i % partitions, null, values.get(j % values.size())));
        }
        producer.commitTransaction();
      }
      System.out.printf("%d %.6f%n", count, (System.nanoTime() - start) / 1e9);
    }
  }
}
