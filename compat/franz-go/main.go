// franz-go: the steps of compat/driver.ts, heavy traffic for compat/crash.ts, or a loop of transactions for compat/transactions.
//
// Usage: client ADDRESS [TOPIC PARTITIONS RATE | INPUT OUTPUT GROUP MEMBER]
package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"sluice/compat/driver"
)

const timeout = 30 * time.Second

type client struct {
	address string
	admin   *kadm.Client
}

func main() {
	if len(os.Args) == 5 {
		if err := flood(os.Args[1], os.Args[2], os.Args[3], os.Args[4]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) == 6 {
		if err := loop(os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(os.Args[1]))
	if err != nil {
		panic(err)
	}
	driver.Serve(client{os.Args[1], kadm.NewClient(cl)})
}

func limited() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), timeout)
}

func (c client) Create(topic string, partitions int) error {
	ctx, cancel := limited()
	defer cancel()
	_, err := c.admin.CreateTopic(ctx, int32(partitions), 1, nil, topic)
	return err
}

func (c client) Remove(topic string) error {
	ctx, cancel := limited()
	defer cancel()
	_, err := c.admin.DeleteTopic(ctx, topic)
	return err
}

func (c client) Topics() ([]string, error) {
	ctx, cancel := limited()
	defer cancel()
	topics, err := c.admin.ListTopics(ctx)
	return topics.Names(), err
}

func (c client) Groups() ([]string, error) {
	ctx, cancel := limited()
	defer cancel()
	groups, err := c.admin.ListGroups(ctx)
	return groups.Groups(), err
}

var codecs = map[string]kgo.CompressionCodec{
	"none":   kgo.NoCompression(),
	"gzip":   kgo.GzipCompression(),
	"snappy": kgo.SnappyCompression(),
	"lz4":    kgo.Lz4Compression(),
	"zstd":   kgo.ZstdCompression(),
}

func (c client) Produce(topic, codec string, records []driver.Record) error {
	// Idempotent and acks=all, which are its defaults.
	cl, err := kgo.NewClient(
		kgo.SeedBrokers(c.address),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(codecs[codec]),
		kgo.ProducerBatchMaxBytes(5_000_000),
		kgo.ProducerLinger(20*time.Millisecond),
		kgo.UnknownTopicRetries(1),
	)
	if err != nil {
		return err
	}
	defer cl.Close()
	batch := make([]*kgo.Record, len(records))
	for i, r := range records {
		batch[i] = &kgo.Record{Topic: topic, Partition: int32(r.Partition), Key: r.Key, Value: r.Value}
		for _, h := range r.Headers {
			batch[i].Headers = append(batch[i].Headers, kgo.RecordHeader{Key: h.Name, Value: h.Data})
		}
		if r.Timestamp != 0 {
			batch[i].Timestamp = time.UnixMilli(r.Timestamp)
		}
	}
	ctx, cancel := limited()
	defer cancel()
	return cl.ProduceSync(ctx, batch...).FirstErr()
}

func (c client) take(topic string, offsets map[int32]kgo.Offset, count int) ([]driver.Record, error) {
	cl, err := kgo.NewClient(
		kgo.SeedBrokers(c.address),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: offsets}),
		kgo.FetchMaxWait(100*time.Millisecond),
	)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	ctx, cancel := limited()
	defer cancel()
	found := []driver.Record{}
	for len(found) < count {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return nil, err
		}
		fetches.EachRecord(func(r *kgo.Record) {
			record := driver.Record{
				Partition: int(r.Partition), Offset: r.Offset, Key: r.Key, Value: r.Value,
				Headers: []driver.Header{}, Timestamp: r.Timestamp.UnixMilli(),
			}
			for _, h := range r.Headers {
				record.Headers = append(record.Headers, driver.Header{Name: h.Key, Data: h.Value})
			}
			found = append(found, record)
		})
	}
	return found, nil
}

func (c client) Read(topic string, partitions, count int) ([]driver.Record, error) {
	offsets := map[int32]kgo.Offset{}
	for partition := range partitions {
		offsets[int32(partition)] = kgo.NewOffset().AtStart()
	}
	return c.take(topic, offsets, count)
}

func (c client) ReadAt(topic string, partition int, timestamp int64) (driver.Record, error) {
	offset := kgo.NewOffset().AfterMilli(timestamp)
	found, err := c.take(topic, map[int32]kgo.Offset{int32(partition): offset}, 1)
	if err != nil {
		return driver.Record{}, err
	}
	return found[0], nil
}

type member struct {
	driver.Ledger
	client *kgo.Client
	cancel context.CancelFunc
	done   sync.WaitGroup
}

func (c client) Join(group, topic, protocol string) (driver.Member, error) {
	m := &member{}
	each := func(note func(int)) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, topics map[string][]int32) {
			for _, partition := range topics[topic] {
				note(int(partition))
			}
		}
	}
	options := []kgo.Opt{
		kgo.SeedBrokers(c.address),
		kgo.ConsumerGroup(group),
		kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.DisableAutoCommit(),
		kgo.HeartbeatInterval(300 * time.Millisecond),
		kgo.FetchMaxWait(100 * time.Millisecond),
		kgo.OnPartitionsAssigned(each(m.Assign)),
		kgo.OnPartitionsRevoked(each(m.Revoke)),
		kgo.OnPartitionsLost(each(m.Revoke)),
	}
	if protocol == "consumer" {
		options = append(options, kgo.Balancers(kgo.RangeBalancer()), kgo.ServerSideBalancer())
	}
	cl, err := kgo.NewClient(options...)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.client, m.cancel = cl, cancel
	m.done.Go(func() {
		for ctx.Err() == nil {
			cl.PollFetches(ctx).EachRecord(func(r *kgo.Record) { m.Receive(int(r.Partition), r.Offset) })
		}
	})
	return m, nil
}

func (m *member) Commit() error {
	ctx, cancel := limited()
	defer cancel()
	return m.client.CommitUncommittedOffsets(ctx)
}

func (m *member) Leave() error {
	m.cancel()
	m.done.Wait()
	m.client.Close()
	return nil
}
