/*
 * librdkafka at full speed, for compat/throughput: records go in by batches and come out by batches, nothing is done with them, so that the
 * client takes as little of the machine as it can.
 *
 *   flood produce  ADDRESS TOPIC PARTITIONS COUNT PAYLOADS [key=value …]
 *   flood consume  ADDRESS TOPIC PARTITIONS COUNT -        [key=value …]
 *   flood transact ADDRESS TOPIC PARTITIONS COUNT PAYLOADS SIZE [key=value …]    COUNT transactions of SIZE records
 *
 * PAYLOADS is a file with one value a line. Prints `COUNT SECONDS`: from the first record handed over to the last one acknowledged, or from
 * the first received to the last. Anything that goes wrong ends it with 1.
 *
 * The declarations are those of librdkafka's public API as far as they are needed here: the library comes without its header in the Python package.
 */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct rd_kafka_s rd_kafka_t;
typedef struct rd_kafka_conf_s rd_kafka_conf_t;
typedef struct rd_kafka_topic_s rd_kafka_topic_t;
typedef struct rd_kafka_queue_s rd_kafka_queue_t;
typedef struct rd_kafka_error_s rd_kafka_error_t;
typedef struct {
  int err;
  rd_kafka_topic_t *rkt;
  int32_t partition;
  void *payload;
  size_t len;
  void *key;
  size_t key_len;
  int64_t offset;
  void *private;
} rd_kafka_message_t;

enum { RD_KAFKA_PRODUCER, RD_KAFKA_CONSUMER };
enum { ERR_QUEUE_FULL = -184, ERR_PARTITION_EOF = -191 };
static const int64_t OFFSET_BEGINNING = -2;

rd_kafka_conf_t *rd_kafka_conf_new(void);
int rd_kafka_conf_set(rd_kafka_conf_t *, const char *, const char *, char *, size_t);
void rd_kafka_conf_set_dr_msg_cb(rd_kafka_conf_t *, void (*)(rd_kafka_t *, const rd_kafka_message_t *, void *));
rd_kafka_t *rd_kafka_new(int, rd_kafka_conf_t *, char *, size_t);
rd_kafka_topic_t *rd_kafka_topic_new(rd_kafka_t *, const char *, void *);
int rd_kafka_produce_batch(rd_kafka_topic_t *, int32_t, int, rd_kafka_message_t *, int);
int rd_kafka_poll(rd_kafka_t *, int);
int rd_kafka_flush(rd_kafka_t *, int);
const char *rd_kafka_err2str(int);
rd_kafka_queue_t *rd_kafka_queue_new(rd_kafka_t *);
int rd_kafka_consume_start_queue(rd_kafka_topic_t *, int32_t, int64_t, rd_kafka_queue_t *);
ssize_t rd_kafka_consume_batch_queue(rd_kafka_queue_t *, int, rd_kafka_message_t **, size_t);
void rd_kafka_message_destroy(rd_kafka_message_t *);
rd_kafka_error_t *rd_kafka_init_transactions(rd_kafka_t *, int);
rd_kafka_error_t *rd_kafka_begin_transaction(rd_kafka_t *);
rd_kafka_error_t *rd_kafka_commit_transaction(rd_kafka_t *, int);
const char *rd_kafka_error_string(const rd_kafka_error_t *);

#define BATCH 1000
#define WAIT_MS 60000

static int partitions;
static rd_kafka_message_t *values;
static int value_count;

static void fail(const char *what, const char *why) {
  fprintf(stderr, "librdkafka: %s: %s\n", what, why);
  exit(1);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static void check(const char *what, rd_kafka_error_t *error) {
  if (error != NULL) fail(what, rd_kafka_error_string(error));
}

static void delivered(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque) {
  (void)rk, (void)opaque;
  if (message->err) fail("delivery", rd_kafka_err2str(message->err));
}

static void read_values(const char *path) {
  FILE *file = fopen(path, "r");
  if (file == NULL) fail(path, "cannot be read");
  char *line = NULL;
  size_t room = 0;
  for (ssize_t bytes; (bytes = getline(&line, &room, file)) > 0; value_count++) {
    values = realloc(values, (value_count + 1) * sizeof *values);
    values[value_count] = (rd_kafka_message_t){.payload = line, .len = bytes - (line[bytes - 1] == '\n')};
    line = NULL, room = 0;
  }
  fclose(file);
}

/* The values stay where they are until the end: nothing is copied. */
static void send_all(rd_kafka_t *rk, rd_kafka_topic_t *topic, long count) {
  static rd_kafka_message_t batch[BATCH];
  static int turn = 0;
  long sent = 0;
  while (sent < count) {
    int size = count - sent < BATCH ? (int)(count - sent) : BATCH;
    for (int i = 0; i < size; i++) batch[i] = values[(sent + i) % value_count];
    int32_t partition = turn++ % partitions;
    for (int done = 0; done < size;) {
      int taken = rd_kafka_produce_batch(topic, partition, 0, batch + done, size - done);
      done += taken;
      if (done == size) break;
      if (batch[done].err != ERR_QUEUE_FULL) fail("produce", rd_kafka_err2str(batch[done].err));
      rd_kafka_poll(rk, 1);
    }
    sent += size;
    rd_kafka_poll(rk, 0);
  }
}

static double produce(rd_kafka_t *rk, rd_kafka_topic_t *topic, long count) {
  double start = now();
  send_all(rk, topic, count);
  int error = rd_kafka_flush(rk, WAIT_MS);
  if (error) fail("flush", rd_kafka_err2str(error));
  return now() - start;
}

static double transact(rd_kafka_t *rk, rd_kafka_topic_t *topic, long count, long size) {
  check("init", rd_kafka_init_transactions(rk, WAIT_MS));
  double start = now();
  for (long i = 0; i < count; i++) {
    check("begin", rd_kafka_begin_transaction(rk));
    send_all(rk, topic, size);
    check("commit", rd_kafka_commit_transaction(rk, WAIT_MS));
  }
  return now() - start;
}

static double consume(rd_kafka_t *rk, rd_kafka_topic_t *topic, long count) {
  static rd_kafka_message_t *batch[10 * BATCH];
  rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
  for (int i = 0; i < partitions; i++) {
    if (rd_kafka_consume_start_queue(topic, i, OFFSET_BEGINNING, queue) != 0) fail("consume", "cannot start");
  }
  double start = 0, last = now();
  for (long received = 0; received < count;) {
    ssize_t size = rd_kafka_consume_batch_queue(queue, 100, batch, 10 * BATCH);
    if (size > 0) last = now();
    else if (now() - last > WAIT_MS / 1000) fail("consume", "records are missing");
    if (size > 0 && start == 0) start = last;
    for (ssize_t i = 0; i < size; i++) {
      if (batch[i]->err == 0) received++;
      else if (batch[i]->err != ERR_PARTITION_EOF) fail("consume", rd_kafka_err2str(batch[i]->err));
      rd_kafka_message_destroy(batch[i]);
    }
  }
  return now() - start;
}

int main(int argc, char **argv) {
  if (argc < 7) fail("usage", "flood produce|consume|transact ADDRESS TOPIC PARTITIONS COUNT PAYLOADS …");
  const char *mode = argv[1];
  int is_consumer = strcmp(mode, "consume") == 0, is_transact = strcmp(mode, "transact") == 0;
  partitions = atoi(argv[4]);
  long count = atol(argv[5]);
  char why[512];
  rd_kafka_conf_t *conf = rd_kafka_conf_new();
  rd_kafka_conf_set(conf, "bootstrap.servers", argv[2], why, sizeof why);
  for (int i = is_transact ? 8 : 7; i < argc; i++) {
    char *equals = strchr(argv[i], '=');
    if (equals == NULL) fail(argv[i], "not key=value");
    *equals = 0;
    if (rd_kafka_conf_set(conf, argv[i], equals + 1, why, sizeof why) != 0) fail(argv[i], why);
  }
  if (!is_consumer) {
    read_values(argv[6]);
    rd_kafka_conf_set(conf, "delivery.report.only.error", "true", why, sizeof why);
    rd_kafka_conf_set_dr_msg_cb(conf, delivered);
  }
  rd_kafka_t *rk = rd_kafka_new(is_consumer ? RD_KAFKA_CONSUMER : RD_KAFKA_PRODUCER, conf, why, sizeof why);
  if (rk == NULL) fail("new", why);
  rd_kafka_topic_t *topic = rd_kafka_topic_new(rk, argv[3], NULL);
  double seconds = is_consumer  ? consume(rk, topic, count)
                   : is_transact ? transact(rk, topic, count, atol(argv[7]))
                                 : produce(rk, topic, count);
  printf("%ld %.6f\n", count, seconds);
  return 0; /* what is left goes with the process */
}
