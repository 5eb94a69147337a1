// sarama: the steps of compat/driver.ts. Usage: client ADDRESS
package main

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"github.com/IBM/sarama"

	"sluice/compat/driver"
)

const timeout = 30 * time.Second

type client struct {
	addresses []string
}

func main() {
	driver.Serve(client{[]string{os.Args[1]}})
}

func config() *sarama.Config {
	c := sarama.NewConfig()
	c.Version = sarama.MaxVersion
	c.Metadata.AllowAutoTopicCreation = false
	c.Consumer.MaxWaitTime = 100 * time.Millisecond
	return c
}

func withAdmin[T any](c client, work func(sarama.ClusterAdmin) (T, error)) (T, error) {
	admin, err := sarama.NewClusterAdmin(c.addresses, config())
	if err != nil {
		var none T
		return none, err
	}
	defer admin.Close()
	return work(admin)
}

func (c client) Create(topic string, partitions int) error {
	_, err := withAdmin(c, func(admin sarama.ClusterAdmin) (any, error) {
		detail := &sarama.TopicDetail{NumPartitions: int32(partitions), ReplicationFactor: 1}
		return nil, admin.CreateTopic(topic, detail, false)
	})
	return err
}

func (c client) Remove(topic string) error {
	_, err := withAdmin(c, func(admin sarama.ClusterAdmin) (any, error) { return nil, admin.DeleteTopic(topic) })
	return err
}

func namesOf[T any](named map[string]T, err error) ([]string, error) {
	names := []string{}
	for name := range named {
		names = append(names, name)
	}
	return names, err
}

func (c client) Topics() ([]string, error) {
	return namesOf(withAdmin(c, sarama.ClusterAdmin.ListTopics))
}

func (c client) Groups() ([]string, error) {
	return namesOf(withAdmin(c, sarama.ClusterAdmin.ListConsumerGroups))
}

var codecs = map[string]sarama.CompressionCodec{
	"none":   sarama.CompressionNone,
	"gzip":   sarama.CompressionGZIP,
	"snappy": sarama.CompressionSnappy,
	"lz4":    sarama.CompressionLZ4,
	"zstd":   sarama.CompressionZSTD,
}

func (c client) Produce(topic, codec string, records []driver.Record) error {
	settings := config()
	settings.Producer.RequiredAcks = sarama.WaitForAll
	settings.Producer.Idempotent = true
	settings.Net.MaxOpenRequests = 1
	settings.Producer.Partitioner = sarama.NewManualPartitioner
	settings.Producer.Compression = codecs[codec]
	settings.Producer.MaxMessageBytes = 5_000_000
	settings.Producer.Return.Successes = true
	settings.Producer.Flush.Frequency = 20 * time.Millisecond
	producer, err := sarama.NewSyncProducer(c.addresses, settings)
	if err != nil {
		return err
	}
	defer producer.Close()
	messages := make([]*sarama.ProducerMessage, len(records))
	for i, r := range records {
		m := &sarama.ProducerMessage{Topic: topic, Partition: int32(r.Partition)}
		if r.Key != nil {
			m.Key = sarama.ByteEncoder(r.Key)
		}
		if r.Value != nil {
			m.Value = sarama.ByteEncoder(r.Value)
		}
		for _, h := range r.Headers {
			m.Headers = append(m.Headers, sarama.RecordHeader{Key: []byte(h.Name), Value: h.Data})
		}
		if r.Timestamp != 0 {
			m.Timestamp = time.UnixMilli(r.Timestamp)
		}
		messages[i] = m
	}
	err = producer.SendMessages(messages)
	var failed sarama.ProducerErrors
	if errors.As(err, &failed) {
		return failed[0].Err
	}
	return err
}

func take(consumer sarama.Consumer, topic string, partition int32, offset int64, until func() bool, each func(*sarama.ConsumerMessage)) error {
	reader, err := consumer.ConsumePartition(topic, partition, offset)
	if err != nil {
		return err
	}
	defer reader.Close()
	for deadline := time.After(timeout); !until(); {
		select {
		case message := <-reader.Messages():
			each(message)
		case <-deadline:
			return errors.New("no message in time")
		}
	}
	return nil
}

func recordOf(m *sarama.ConsumerMessage) driver.Record {
	record := driver.Record{
		Partition: int(m.Partition), Offset: m.Offset, Key: m.Key, Value: m.Value,
		Headers: []driver.Header{}, Timestamp: m.Timestamp.UnixMilli(),
	}
	for _, h := range m.Headers {
		record.Headers = append(record.Headers, driver.Header{Name: string(h.Key), Data: h.Value})
	}
	return record
}

func (c client) Read(topic string, partitions, _ int) ([]driver.Record, error) {
	cl, err := sarama.NewClient(c.addresses, config())
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	consumer, err := sarama.NewConsumerFromClient(cl)
	if err != nil {
		return nil, err
	}
	found := []driver.Record{}
	for partition := range int32(partitions) {
		end, err := cl.GetOffset(topic, partition, sarama.OffsetNewest)
		if err != nil {
			return nil, err
		}
		next := int64(0)
		err = take(consumer, topic, partition, sarama.OffsetOldest, func() bool { return next >= end }, func(m *sarama.ConsumerMessage) {
			found = append(found, recordOf(m))
			next = m.Offset + 1
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

func (c client) ReadAt(topic string, partition int, timestamp int64) (driver.Record, error) {
	var record *driver.Record
	cl, err := sarama.NewClient(c.addresses, config())
	if err != nil {
		return driver.Record{}, err
	}
	defer cl.Close()
	offset, err := cl.GetOffset(topic, int32(partition), timestamp)
	if err != nil {
		return driver.Record{}, err
	}
	consumer, err := sarama.NewConsumerFromClient(cl)
	if err != nil {
		return driver.Record{}, err
	}
	err = take(consumer, topic, int32(partition), offset, func() bool { return record != nil }, func(m *sarama.ConsumerMessage) {
		r := recordOf(m)
		record = &r
	})
	if err != nil {
		return driver.Record{}, err
	}
	return *record, nil
}

// member is the handler of a consumer group as well.
type member struct {
	driver.Ledger
	group   sarama.ConsumerGroup
	cancel  context.CancelFunc
	done    sync.WaitGroup
	mutex   sync.Mutex
	session sarama.ConsumerGroupSession
}

func (c client) Join(group, topic, _ string) (driver.Member, error) {
	settings := config()
	settings.Consumer.Offsets.Initial = sarama.OffsetOldest
	settings.Consumer.Offsets.AutoCommit.Enable = false
	settings.Consumer.Group.Heartbeat.Interval = 300 * time.Millisecond
	consumer, err := sarama.NewConsumerGroup(c.addresses, group, settings)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := &member{group: consumer, cancel: cancel}
	m.done.Go(func() {
		for ctx.Err() == nil {
			// It ends with every rebalance.
			if err := consumer.Consume(ctx, []string{topic}, m); err != nil {
				os.Stderr.WriteString(err.Error() + "\n")
			}
		}
	})
	return m, nil
}

func (m *member) Setup(session sarama.ConsumerGroupSession) error {
	m.mutex.Lock()
	m.session = session
	m.mutex.Unlock()
	for _, partitions := range session.Claims() {
		for _, partition := range partitions {
			m.Assign(int(partition))
		}
	}
	return nil
}

func (m *member) Cleanup(session sarama.ConsumerGroupSession) error {
	for _, partitions := range session.Claims() {
		for _, partition := range partitions {
			m.Revoke(int(partition))
		}
	}
	return nil
}

func (m *member) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for message := range claim.Messages() {
		m.Receive(int(message.Partition), message.Offset)
		session.MarkMessage(message, "")
	}
	return nil
}

func (m *member) Commit() error {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.session.Commit()
	return nil
}

func (m *member) Leave() error {
	m.cancel()
	m.done.Wait()
	return m.group.Close()
}
