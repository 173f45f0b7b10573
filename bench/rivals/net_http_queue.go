// A queue on Go's net/http with a trace id in every answer: the architecture of the original. `go build` it.
//
//	net_http_queue PORT [CERT KEY]
//
// With the files of a certificate and its key it serves TLS.
package main

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
)

var (
	lock    sync.Mutex
	queue   [][]byte
	counter int64
)

func traced(handle http.HandlerFunc) http.HandlerFunc {
	return func(answer http.ResponseWriter, request *http.Request) {
		id := make([]byte, 3)
		rand.Read(id)
		answer.Header().Set("X-Trace-Id", fmt.Sprintf("%d-%s", atomic.AddInt64(&counter, 1), hex.EncodeToString(id)))
		answer.Header().Set("Cache-Control", "no-store")
		handle(answer, request)
	}
}

func main() {
	http.HandleFunc("/enqueue", traced(func(answer http.ResponseWriter, request *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(answer, request.Body, 128<<10))
		if err != nil {
			answer.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		lock.Lock()
		queue = append(queue, body)
		lock.Unlock()
		answer.WriteHeader(http.StatusAccepted)
	}))
	http.HandleFunc("/dequeue", traced(func(answer http.ResponseWriter, request *http.Request) {
		lock.Lock()
		if len(queue) == 0 {
			lock.Unlock()
			answer.WriteHeader(http.StatusNoContent)
			return
		}
		body := queue[0]
		queue = queue[1:]
		lock.Unlock()
		answer.Header().Set("Content-Type", "application/octet-stream")
		answer.Write(body)
	}))
	address := "127.0.0.1:" + os.Args[1]
	var err error
	if len(os.Args) > 3 {
		err = http.ListenAndServeTLS(address, os.Args[2], os.Args[3], nil)
	} else {
		err = http.ListenAndServe(address, nil)
	}
	panic(err)
}
