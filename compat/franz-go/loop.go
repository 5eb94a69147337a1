package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	loopRecordsMax = 25
	loopAbortEvery = 7
)

// loop consumes, transforms and produces in transactions, for compat/transactions.
//
// The session fences by the group's generation (KIP-447). The lines it prints are those of compat/transactions/loop.ts.
func loop(address, input, output, group, member string) error {
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	for ctx.Err() == nil {
		if err := loopSession(ctx, address, input, output, group, member); err != nil {
			say("again", oneLineOf(err))
		}
	}
	return nil
}

// loopSession ends when the context does, or with an error after which a new session is needed.
func loopSession(ctx context.Context, address, input, output, group, member string) error {
	session, err := kgo.NewGroupTransactSession(
		kgo.SeedBrokers(address),
		kgo.TransactionalID(member),
		kgo.TransactionTimeout(20*time.Second),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.RequireStableFetchOffsets(),
		kgo.ConsumerGroup(group),
		kgo.ConsumeTopics(input),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.SessionTimeout(6*time.Second),
		kgo.HeartbeatInterval(500*time.Millisecond),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.ProducerLinger(2*time.Millisecond),
		kgo.MetadataMinAge(100*time.Millisecond),
		kgo.RetryBackoffFn(func(int) time.Duration { return 100 * time.Millisecond }),
	)
	if err != nil {
		return err
	}
	defer session.Close()
	for transactions := 1; ctx.Err() == nil; {
		fetches := session.PollRecords(ctx, loopRecordsMax)
		records := fetches.Records()
		if len(records) == 0 {
			continue
		}
		if err := session.Begin(); err != nil {
			return err
		}
		var failed atomic.Pointer[error]
		for _, record := range records {
			value := fmt.Sprintf("%s|%s.%d", record.Value, member, transactions)
			out := &kgo.Record{Topic: output, Partition: record.Partition, Key: record.Key, Value: []byte(value)}
			session.Produce(context.Background(), out, func(_ *kgo.Record, err error) {
				if err != nil {
					failed.Store(&err)
				}
			})
		}
		if err := session.Client().Flush(context.Background()); err != nil {
			return err
		}
		say("sent", len(records))
		isAborted := transactions%loopAbortEvery == 0
		if !isAborted {
			say("ending")
		}
		committed, err := session.End(context.Background(), kgo.TransactionEndTry(failed.Load() == nil && !isAborted))
		transactions++
		switch {
		case err != nil:
			return err
		case committed:
			say("committed", len(records))
		case isAborted:
			say("aborted", len(records))
		default:
			why := "the session did not let it commit"
			if failure := failed.Load(); failure != nil {
				why = oneLineOf(*failure)
			}
			say("again", why)
		}
	}
	return nil
}

func say(words ...any) {
	fmt.Println(words...)
}

func oneLineOf(err error) string {
	return strings.Join(strings.Fields(err.Error()), " ")
}
