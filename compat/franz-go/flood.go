package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// flood is heavy traffic with an idempotent producer, for compat/crash.ts.
//
// Record n goes to partition n % PARTITIONS and has the value "n:xxx…". For each acknowledged one a line `n offset` is printed. When
// standard input ends it stops, waits for what is under way, and ends.
func flood(address, topic, partitionsText, rateText string) error {
	partitions, err := strconv.Atoi(partitionsText)
	if err != nil {
		return err
	}
	rate, err := strconv.Atoi(rateText)
	if err != nil {
		return err
	}
	stopping := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(stopping)
	}()
	cl, err := kgo.NewClient(
		kgo.SeedBrokers(address),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerLinger(5*time.Millisecond),
		kgo.MaxBufferedRecords(20_000),
		kgo.MetadataMinAge(100*time.Millisecond),
		kgo.RetryBackoffFn(func(int) time.Duration { return 100 * time.Millisecond }),
	)
	if err != nil {
		return err
	}
	defer cl.Close()
	var mutex sync.Mutex
	out := bufio.NewWriter(os.Stdout)
	flush := func() {
		mutex.Lock()
		defer mutex.Unlock()
		out.Flush()
	}
	defer flush()
	padding := strings.Repeat("x", 100)
	start := time.Now()
	for number := 0; ; {
		select {
		case <-stopping:
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			return cl.Flush(ctx)
		default:
		}
		if number > int(time.Since(start).Seconds()*float64(rate)) {
			flush()
			time.Sleep(5 * time.Millisecond)
			continue
		}
		n := number
		record := &kgo.Record{Topic: topic, Partition: int32(n % partitions), Value: []byte(strconv.Itoa(n) + ":" + padding)}
		full := false
		cl.TryProduce(context.Background(), record, func(r *kgo.Record, err error) {
			if err == kgo.ErrMaxBuffered {
				full = true
				return
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, "franz-go:", err)
				return
			}
			mutex.Lock()
			defer mutex.Unlock()
			fmt.Fprintf(out, "%d %d\n", n, r.Offset)
		})
		if full {
			flush()
			time.Sleep(50 * time.Millisecond)
			// What could not be sent meanwhile is not made up for.
			start = time.Now().Add(-time.Duration(float64(number) / float64(rate) * float64(time.Second)))
			continue
		}
		number++
	}
}
