// kafka-go: the steps of compat/driver.ts. Usage: client ADDRESS
package main

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"

	"sluice/compat/driver"
)

const timeout = 30 * time.Second

type client struct {
	address string
	admin   *kafka.Client
}

func main() {
	driver.Serve(client{os.Args[1], &kafka.Client{Addr: kafka.TCP(os.Args[1]), Timeout: timeout}})
}

func (c client) Create(topic string, partitions int) error {
	config := kafka.TopicConfig{Topic: topic, NumPartitions: partitions, ReplicationFactor: 1}
	response, err := c.admin.CreateTopics(context.Background(), &kafka.CreateTopicsRequest{Topics: []kafka.TopicConfig{config}})
	if err != nil {
		return err
	}
	return response.Errors[topic]
}

func (c client) Remove(topic string) error {
	response, err := c.admin.DeleteTopics(context.Background(), &kafka.DeleteTopicsRequest{Topics: []string{topic}})
	if err != nil {
		return err
	}
	return response.Errors[topic]
}

func (c client) Topics() ([]string, error) {
	response, err := c.admin.Metadata(context.Background(), &kafka.MetadataRequest{})
	if err != nil {
		return nil, err
	}
	names := []string{}
	for _, topic := range response.Topics {
		names = append(names, topic.Name)
	}
	return names, nil
}

func (c client) Groups() ([]string, error) {
	response, err := c.admin.ListGroups(context.Background(), &kafka.ListGroupsRequest{})
	if err != nil {
		return nil, err
	}
	names := []string{}
	for _, group := range response.Groups {
		names = append(names, group.GroupID)
	}
	return names, response.Error
}

var codecs = map[string]kafka.Compression{
	"gzip":   kafka.Gzip,
	"snappy": kafka.Snappy,
	"lz4":    kafka.Lz4,
	"zstd":   kafka.Zstd,
}

func (c client) Produce(topic, codec string, records []driver.Record) error {
	writer := &kafka.Writer{
		Addr:         kafka.TCP(c.address),
		Topic:        topic,
		RequiredAcks: kafka.RequireAll,
		Compression:  codecs[codec],
		BatchBytes:   5_000_000,
		BatchTimeout: 20 * time.Millisecond,
		MaxAttempts:  2,
		Balancer:     kafka.BalancerFunc(func(m kafka.Message, _ ...int) int { return m.WriterData.(int) }),
	}
	messages := make([]kafka.Message, len(records))
	for i, r := range records {
		messages[i] = kafka.Message{Key: r.Key, Value: r.Value, WriterData: r.Partition}
		for _, h := range r.Headers {
			messages[i].Headers = append(messages[i].Headers, kafka.Header{Key: h.Name, Value: h.Data})
		}
		if r.Timestamp != 0 {
			messages[i].Time = time.UnixMilli(r.Timestamp)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	err := writer.WriteMessages(ctx, messages...)
	var failed kafka.WriteErrors
	if errors.As(err, &failed) {
		for _, one := range failed {
			if one != nil {
				err = one
			}
		}
	}
	return errors.Join(err, writer.Close())
}

func (c client) reader(topic string, partition int) *kafka.Reader {
	return kafka.NewReader(kafka.ReaderConfig{
		Brokers: []string{c.address}, Topic: topic, Partition: partition, MinBytes: 1, MaxBytes: 10_000_000, MaxWait: 100 * time.Millisecond,
	})
}

func recordOf(m kafka.Message) driver.Record {
	record := driver.Record{
		Partition: m.Partition, Offset: m.Offset, Key: m.Key, Value: m.Value,
		Headers: []driver.Header{}, Timestamp: m.Time.UnixMilli(),
	}
	for _, h := range m.Headers {
		record.Headers = append(record.Headers, driver.Header{Name: h.Key, Data: h.Value})
	}
	return record
}

func (c client) Read(topic string, partitions, _ int) ([]driver.Record, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	found := []driver.Record{}
	for partition := range partitions {
		reader := c.reader(topic, partition)
		defer reader.Close()
		for {
			message, err := reader.ReadMessage(ctx)
			if err != nil {
				return nil, err
			}
			found = append(found, recordOf(message))
			if message.Offset+1 >= message.HighWaterMark {
				break
			}
		}
	}
	return found, nil
}

func (c client) ReadAt(topic string, partition int, timestamp int64) (driver.Record, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	reader := c.reader(topic, partition)
	defer reader.Close()
	if err := reader.SetOffsetAt(ctx, time.UnixMilli(timestamp)); err != nil {
		return driver.Record{}, err
	}
	message, err := reader.ReadMessage(ctx)
	return recordOf(message), err
}

type member struct {
	driver.Ledger
	group      *kafka.ConsumerGroup
	cancel     context.CancelFunc
	done       sync.WaitGroup
	mutex      sync.Mutex
	topic      string
	generation *kafka.Generation
	next       map[int]int64
}

func (c client) Join(group, topic, _ string) (driver.Member, error) {
	consumers, err := kafka.NewConsumerGroup(kafka.ConsumerGroupConfig{
		ID:                group,
		Brokers:           []string{c.address},
		Topics:            []string{topic},
		StartOffset:       kafka.FirstOffset,
		HeartbeatInterval: 300 * time.Millisecond,
		JoinGroupBackoff:  100 * time.Millisecond,
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := &member{group: consumers, cancel: cancel, topic: topic}
	m.done.Go(func() {
		for {
			generation, err := consumers.Next(ctx)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				os.Stderr.WriteString(err.Error() + "\n")
				continue
			}
			m.mutex.Lock()
			m.generation, m.next = generation, map[int]int64{}
			m.mutex.Unlock()
			for _, place := range generation.Assignments[topic] {
				generation.Start(func(ctx context.Context) { m.consume(ctx, c.reader(topic, place.ID), place) })
			}
		}
	})
	return m, nil
}

// consume reads a partition as long as its generation lasts.
func (m *member) consume(ctx context.Context, reader *kafka.Reader, place kafka.PartitionAssignment) {
	defer reader.Close()
	m.Assign(place.ID)
	defer m.Revoke(place.ID)
	if err := reader.SetOffset(place.Offset); err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		return
	}
	for {
		message, err := reader.ReadMessage(ctx)
		if err != nil {
			return
		}
		m.Receive(message.Partition, message.Offset)
		m.mutex.Lock()
		m.next[message.Partition] = message.Offset + 1
		m.mutex.Unlock()
	}
}

func (m *member) Commit() error {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	return m.generation.CommitOffsets(map[string]map[int]int64{m.topic: m.next})
}

func (m *member) Leave() error {
	m.cancel()
	m.done.Wait()
	return m.group.Close()
}
