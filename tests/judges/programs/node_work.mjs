// @aws-sdk/client-sqs and sqs-consumer: attributes, batches, FIFO, refusals, and a handler that fails at first.
import assert from 'node:assert/strict';
import {
  CreateQueueCommand, DeleteMessageBatchCommand, DeleteMessageCommand, GetQueueAttributesCommand, GetQueueUrlCommand,
  ListQueuesCommand, PurgeQueueCommand, QueueDoesNotExist, ReceiveMessageCommand, SendMessageBatchCommand,
  SendMessageCommand, SQSClient, SQSServiceException,
} from '@aws-sdk/client-sqs';
import { Consumer } from 'sqs-consumer';

const sqs = new SQSClient({});
const { QueueUrl } = await sqs.send(new CreateQueueCommand({ QueueName: 'jobs', Attributes: { VisibilityTimeout: '30' } }));
assert.ok(QueueUrl.endsWith('/123456789012/jobs'));

// The SDK compares the sums of what it sends and gets.
const MessageAttributes = {
  who: { DataType: 'String', StringValue: 'é \u{1f40d}' },
  count: { DataType: 'Number', StringValue: '17' },
  blob: { DataType: 'Binary', BinaryValue: new Uint8Array([0, 255, 128]) },
};
const MessageBody = 'line\r\n"quoted" <&> \u{1f600}';
const sent = await sqs.send(new SendMessageCommand({ QueueUrl, MessageBody, MessageAttributes }));
const { Messages: [got] } = await sqs.send(new ReceiveMessageCommand({
  QueueUrl, MessageAttributeNames: ['All'], MessageSystemAttributeNames: ['All'],
}));
assert.equal(got.MessageId, sent.MessageId);
assert.equal(got.Body, MessageBody);
assert.equal(got.MessageAttributes.who.StringValue, MessageAttributes.who.StringValue);
assert.deepEqual([...got.MessageAttributes.blob.BinaryValue], [0, 255, 128]);
assert.equal(got.Attributes.ApproximateReceiveCount, '1');
await sqs.send(new DeleteMessageCommand({ QueueUrl, ReceiptHandle: got.ReceiptHandle }));

const Entries = [...Array(10).keys()].map((n) => ({ Id: `e${n}`, MessageBody: `body ${n}` }));
const batch = await sqs.send(new SendMessageBatchCommand({ QueueUrl, Entries }));
assert.equal(batch.Successful.length, 10);
const { Messages } = await sqs.send(new ReceiveMessageCommand({ QueueUrl, MaxNumberOfMessages: 10 }));
assert.deepEqual(Messages.map((each) => each.Body), Entries.map((each) => each.MessageBody));
const deleted = await sqs.send(new DeleteMessageBatchCommand({
  QueueUrl, Entries: Messages.map((each, n) => ({ Id: `${n}`, ReceiptHandle: each.ReceiptHandle })),
}));
assert.equal(deleted.Successful.length, 10);
assert.equal(deleted.Failed, undefined);
assert.equal((await sqs.send(new ReceiveMessageCommand({ QueueUrl }))).Messages, undefined);

await assert.rejects(sqs.send(new GetQueueUrlCommand({ QueueName: 'none' })), QueueDoesNotExist);
await assert.rejects(
  sqs.send(new ReceiveMessageCommand({ QueueUrl, MaxNumberOfMessages: 11 })),
  (error) => error instanceof SQSServiceException && error.$metadata.httpStatusCode === 400,
);

const fifo = (await sqs.send(new CreateQueueCommand({ QueueName: 'jobs.fifo', Attributes: { FifoQueue: 'true' } }))).QueueUrl;
for (const [body, group] of [['a1', 'a'], ['a2', 'a'], ['b1', 'b'], ['a1', 'a']]) {
  const answer = await sqs.send(new SendMessageCommand({
    QueueUrl: fifo, MessageBody: body, MessageGroupId: group, MessageDeduplicationId: body,
  }));
  assert.equal(answer.SequenceNumber.length, 20);
}
const first = (await sqs.send(new ReceiveMessageCommand({ QueueUrl: fifo }))).Messages;
const rest = (await sqs.send(new ReceiveMessageCommand({ QueueUrl: fifo, MaxNumberOfMessages: 10 }))).Messages;
assert.deepEqual([...first, ...rest].map((each) => each.Body), ['a1', 'b1']);
await sqs.send(new PurgeQueueCommand({ QueueUrl: fifo }));
assert.deepEqual((await sqs.send(new ListQueuesCommand({ QueueNamePrefix: 'jobs' }))).QueueUrls, [QueueUrl, fifo]);

// One at a time, each tenth only when it is tried again; then batch by batch.
async function consume(total, options, failing) {
  const seen = new Set();
  const tried = new Set();
  const take = (message) => {
    if (failing(message) && !tried.has(message.Body)) {
      tried.add(message.Body);
      throw new Error('to be tried again');
    }
    seen.add(message.Body);
    return message;
  };
  const consumer = Consumer.create({
    queueUrl: QueueUrl, sqs, waitTimeSeconds: 1, visibilityTimeout: 30, terminateVisibilityTimeout: true,
    // Its last poll would take what the next consumer is to get.
    pollingCompleteWaitTimeMs: 10_000, ...options(take),
  });
  const wrong = [];
  consumer.on('error', (error) => wrong.push(error));
  consumer.on('processing_error', () => {});
  for (let n = 0; n < total; n += 10) {
    await sqs.send(new SendMessageBatchCommand({
      QueueUrl, Entries: [...Array(10).keys()].map((m) => ({ Id: `${m}`, MessageBody: `${n + m}` })),
    }));
  }
  consumer.start();
  const deadline = Date.now() + 120_000;
  while (seen.size < total && !wrong.length && Date.now() < deadline) await new Promise((done) => setTimeout(done, 20));
  const stopped = new Promise((done) => consumer.on('stopped', done));
  consumer.stop({ abort: false });
  await stopped;
  assert.deepEqual(wrong, []);
  assert.equal(seen.size, total);
  return tried.size;
}
const one = (take) => ({ handleMessage: async (message) => take(message), batchSize: 10 });
const many = (take) => ({ handleMessageBatch: async (messages) => messages.map(take), batchSize: 10 });
assert.equal(await consume(50, one, (message) => message.Body.endsWith('0')), 5);
assert.equal(await consume(50, many, () => false), 0);

const { Attributes } = await sqs.send(new GetQueueAttributesCommand({ QueueUrl, AttributeNames: ['All'] }));
assert.equal(Attributes.ApproximateNumberOfMessages, '0');
assert.equal(Attributes.ApproximateNumberOfMessagesNotVisible, '0');
console.log('judged well');
